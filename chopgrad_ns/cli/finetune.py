"""Fine-tune a video refiner on pairs, with pixel losses through its causal decoder over whole clips.

Example: chopgrad finetune --pairs pairs --output refiner --steps 1000 --losses robust_l1=1,ssim=0.2,perceptual=0.1@500+200

Of a video diffusion model: chopgrad finetune --task super-resolution --base Wan-AI/Wan2.1-T2V-1.3B-Diffusers --pairs pairs
--output refiner --buckets 17x256x256=3,49x480x832=1 --precision bf16 --gradient-checkpointing --memory-budget 70GB

On several GPUs: accelerate launch -m chopgrad_ns.cli.main finetune OPTIONS, with --fsdp where one cannot hold all that
training adds to the weights
"""

from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from chopgrad_ns.refiner.finetune.settings import FinetuneSettings

NEXT = {"artifact-removal": "SCENE --splat splat.ply", "super-resolution": "VIDEO --task super-resolution --scale 4",
        "driving": "VIDEO --task driving --masks MASKS", "inpainting": "VIDEO --task inpainting --masks MASKS"}
"""What `chopgrad refine` is given for a task, beside the refiner."""


def run(pairs: Path, output: Path, settings: Annotated[FinetuneSettings, tyro.conf.OmitArgPrefixes],
        task: str = "artifact-removal", base: str = "tiny", prompt: Optional[str] = None, timestep: Optional[int] = None,
        parts: Optional[str] = None, base_dtype: Literal["fp32", "bf16"] = "fp32", backprop: str = "exact",
        detail: Optional[Literal["decode", "residual"]] = None, skips: Optional[bool] = None, validation: Optional[Path] = None,
        hold_out: int = 0) -> None:
    """Fine-tune a refiner.

    Args:
        pairs: folder that `chopgrad pairs` wrote
        output: folder for the refiner (config.json, model.safetensors), for TensorBoard and films of validation; progress is
            kept in it, and an interrupted run given again continues
        settings: how to train
        task: artifact-removal, super-resolution, driving or inpainting, or PACKAGE.MODULE:NAME for one of your own that
            importing the module registers; pairs of other tasks are left out
        base: "tiny", a folder with a refiner, or a video diffusion model (Wan2.1, Wan2.2, CogVideoX): its Hugging Face id, or a
            folder in the layout of diffusers or DOVE
        prompt: text whose embedding is stored with a refiner of a video diffusion model; by default the task's
        timestep: 0 to 999, that a degraded clip is taken for the noisy sample of; by default what suits the base
        parts: id or folder of a video diffusion model that parts which the base lacks are taken from
        base_dtype: of the weights of a video diffusion model as they are read; bf16, with --precision bf16, takes half the
            memory, and rounds also what is trained in full
        backprop: how far losses reach back through the decoder: exact, full (the same, with everything in memory) or
            truncated-N (to N groups of frames before their own); exact-offload, exact-keep-K and exact-layers take less
            memory and more time, and can be joined: exact-offload-layers. With --memory-budget it is chosen
        detail: how a video diffusion model's output is made: what it decodes (the default), or residual, the input and what
            one step changes of its decoded latent, which takes a second decoding and keeps what was right
        skips: whether the autoencoder's encoder hands its features to the decoder, as it does by default; they take memory
        validation: folder of pairs that only judge, of scenes that are not trained on
        hold_out: so many of the pairs only judge; no others of their scenes are trained on
    """
    import torch

    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.data.pair_set import PairSet
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.files import refuse_file
    from chopgrad_ns.refiner import Refiner, finetune, training_losses
    from chopgrad_ns.refiner.finetune.distributed import accelerator
    from chopgrad_ns.refiner.finetune.validation import METRICS, check_apart
    from chopgrad_ns.refiner.finetune.validation import hold_out as held_out
    from chopgrad_ns.refiner.tasks import task_named

    refuse_file(output)
    if ":" in task:
        task = imported_task(task)
    strategy, main = strategy_of(backprop), accelerator().is_main_process
    settings.check()
    wanted = task_named(task)
    training_losses(settings.losses or wanted.losses)
    if hold_out < 0 or (hold_out and validation is not None):
        raise UserError("Pairs that judge are some of --pairs or those of --validation; give --hold-out, 1 or more, or "
                        "--validation, not both.")
    stored = PairSet(pairs)
    examples = of_task(stored, task, main)
    judges = [] if validation is None else of_task(PairSet(validation), task, main)
    if hold_out:
        examples, judges = held_out(examples, hold_out, settings.seed)
    check_apart(examples, judges)
    dtype = torch.bfloat16 if base_dtype == "bf16" else None
    options = {name: value for name, value in (("output", detail), ("skips", skips)) if value is not None}
    refiner = Refiner.from_pretrained(base, task=task, prompt=prompt, timestep=timestep, parts=parts, dtype=dtype, **options)
    if not main:
        finetune(refiner, examples, settings, None, output / "progress", strategy, judges)
        return
    tell_shapes(refiner, examples, settings)
    with bar("fine-tuning") as progress:
        result = finetune(refiner, examples, settings, progress, output / "progress", strategy, judges, output)
    refiner.save(output)
    if judges:
        told = [f"{name.upper()} {result[f'{name}_render']:.4g} as given, {result[f'{name}_before']:.4g} before, "
                f"{result[f'{name}_after']:.4g} after" for name in METRICS if f"{name}_after" in result]
        print("; ".join(told))
    given = NEXT.get(task, "VIDEO --task " + task)
    print(f"Refiner in {output}; next: chopgrad refine {given} --refiner {output}")
    stored.complain()


def imported_task(text: str) -> str:
    """The name of a task MODULE:NAME, whose module is imported. Raises UserError where it cannot be."""
    from importlib import import_module

    from chopgrad_ns.errors import UserError

    module, _, name = text.partition(":")
    try:
        import_module(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"The module {module!r} of --task {text} cannot be imported ({error}); give one that is on Python's "
                        "path (PYTHONPATH).") from error
    return name


def tell_shapes(refiner, examples: list, settings: FinetuneSettings) -> None:
    """Print what a step is trained on: a base takes only some numbers of frames."""
    from chopgrad_ns.refiner.finetune.examples import Examples

    backbone, told = refiner.model.backbone, []
    found = Examples(examples, refiner.task, settings, backbone.frame_step, backbone.spatial_factor)
    for bucket, (frames, height, width) in found.shapes():
        most = "up to " if bucket.frames is None else ""
        told.append(f"{bucket.batch} × {most}{frames} frames of {most}{height}×{width} pixels")
    print("Each step is trained on " + ", or ".join(told) + ".")


def of_task(pairs, task: str, tell: bool) -> list:
    """Those of a set that are for a task; if asked to, tell of the others how many there are, and for what.

    Raises UserError where none is left.
    """
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.refiner.tasks import TASKS

    suited = [pair for pair in pairs if TASKS[task].fits(pair)]
    others = sorted({name for pair in pairs if not TASKS[task].fits(pair) for name, one in TASKS.items() if one.fits(pair)})
    what = f"for {' and '.join(others)}" if others else f"not for {task}"
    if not suited:
        raise UserError(f"None of the {len(pairs)} pairs in {pairs.folder} is for {task}, they are {what}; give that --task, "
                        "or make others with chopgrad pairs.")
    if tell and len(suited) < len(pairs):
        print(f"{len(pairs) - len(suited)} of {len(pairs)} pairs are {what}; they are left out.")
    return suited


def strategy_of(backprop: str):
    """The way through the decoder that `--backprop` names, as `chopgrad profile` names it."""
    from chopgrad_ns.chopgrad import strategy_named
    from chopgrad_ns.errors import UserError

    try:
        return strategy_named(backprop)
    except ValueError as error:
        raise UserError(f"There is no --backprop {backprop!r}; {error}.") from error
