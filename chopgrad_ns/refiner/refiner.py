"""The refiner as its users meet it: load, save, call on a clip of any length and size."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.contrast import contrast, raised
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import refuse_file
from chopgrad_ns.refiner.backbones import Backbone, build, embed_prompt, load
from chopgrad_ns.refiner.backbones.folders import first_line
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.model import RefinerModel, collate
from chopgrad_ns.refiner.tasks import Task, task_named
from chopgrad_ns.refiner.windows import Windows, refine_stream

WEIGHTS = "model.safetensors"


class Refiner:
    """A refiner for one task. `refiner(clip)` gives refined frames [T, 3, H, W] in 0…1.

    `pretrained` says if it was ever trained for the task. `trained` names the backbone's tensors that are no longer those
    of `config.base`. It lives on the GPU where there is one; clips may live anywhere.
    """

    def __init__(self, config: RefinerConfig, backbone: Backbone | None = None, pretrained: bool = False,
                 device: torch.device | str | None = None):
        """`backbone`: with the weights of `config.base`; without, random ones of `config.backbone`."""
        self.config, self.pretrained = config, pretrained
        self.precision: Literal["fp32", "bf16"] = "fp32"
        self.trained: set[str] = set()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained refiner is the same everywhere
            self.model = RefinerModel(config, build(config.backbone) if backbone is None else backbone).eval()
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu" and config.base is None:
            _last_channels_first(self.model)

    @property
    def device(self) -> torch.device:
        return self.model.prompt.device

    @property
    def task(self) -> Task:
        return task_named(self.config.task)

    @classmethod
    def from_pretrained(cls, source: str | Path, task: str = "artifact-removal", prompt: str | None = None,
                        timestep: int | None = None, parts: str | Path | None = None, dtype: torch.dtype | None = None,
                        device: torch.device | str | None = None, **options) -> Refiner:
        """Load a refiner, or make one of a published video model.

        Args:
            source: "tiny", the embedded one (untrained where no weights are shipped for the task); a folder that `save`
                wrote; or a video diffusion model of a supported family: a Hugging Face id, a folder in diffusers' layout or
                in that of DOVE.
            task: what it is wanted for; a checkpoint of another task is refused.
            prompt: text whose embedding is stored with the refiner; by default the task's. Without a text encoder beside
                the model the embedding is zero, and `config.prompt` says so.
            timestep: 0…999, that the degraded clip is taken for the noisy sample of; by default the family's.
            parts: id or folder of a model that parts which `source` lacks are taken from.
            dtype: of a published model's weights, 32 bits by default; with bfloat16 the refiner computes in it.
            device: that it lives on; by default the GPU where there is one.
            options: further fields of `RefinerConfig`, such as `output` and `skips`.

        Raises:
            UserError: where `source` cannot be had or read, is cut short, or was trained for another task; and for a prompt,
                timestep, parts or options other than those that a checkpoint of ours, or "tiny", was made with.
        """
        task_named(task)
        if dtype not in (None, torch.float32, torch.bfloat16):
            raise UserError(f"The dtype of {source} cannot be {dtype}; give torch.float32 or torch.bfloat16.")
        asked = {"prompt": prompt, "timestep": timestep, "parts": _place(parts)}
        asked = {name: value for name, value in asked.items() if value is not None} | options
        if str(source) == "tiny":
            folder = resources.files("chopgrad_ns.assets") / "tiny" / task
            with resources.as_file(folder) as path:
                if (path / "config.json").is_file():
                    refiner = cls._load(path, task, asked, dtype, device, called="tiny")
                else:
                    fixed = {name: asked.pop(name) for name in ("prompt", "parts") if name in asked}
                    config = RefinerConfig(task=task, **asked)
                    _check_fixed(source, config, fixed)
                    refiner = cls(config, device=device)
        elif _is_ours(Path(source)):
            refiner = cls._load(Path(source), task, asked, dtype, device)
        else:
            refiner = cls._of_base(source, task, prompt, timestep, parts, dtype, device, options)
        refiner.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        return refiner

    @classmethod
    def _of_base(cls, source: str | Path, task: str, prompt: str | None, timestep: int | None, parts: str | Path | None,
                 dtype: torch.dtype | None, device: torch.device | str | None, options: dict) -> Refiner:
        backbone = load(source, timestep, dtype, parts)
        places = [place for place in (source, parts) if place is not None]
        text = task_named(task).prompt if prompt is None else prompt
        # DOVE has no text encoder, and an embedding of no text.
        text, embedding = _embedded(places, [text, ""] if prompt is None else [text], backbone.prompt_shape)
        if embedding is None and prompt:
            raise UserError(f"{source} has no text encoder to embed the prompt with; fetch its text_encoder and tokenizer "
                            "too, or leave the prompt out.")
        levels = backbone.latent_factor.bit_length()
        config = RefinerConfig(**{
            "task": task, "backbone": backbone.config, "base": _place(source), "output": "decode", "parts": _place(parts),
            "base_weights": backbone.fingerprint(),
            "timestep": backbone.default_timestep if timestep is None else timestep,
            "prompt": {"text": text, "source": "zero" if embedding is None else "base"},
            "prompt_tokens": 1 if embedding is None else len(embedding),
            "condition_channels": [16, 32, 48, 64, 64][:levels]} | options)
        refiner = cls(config, backbone, device=device)
        if embedding is not None:
            refiner.model.prompt.copy_(embedding)
        return refiner

    @classmethod
    def _load(cls, folder: Path, task: str, asked: dict, dtype: torch.dtype | None, device: torch.device | str | None,
              called: str | None = None) -> Refiner:
        config = RefinerConfig.read(folder / "config.json")
        if config.task != task:
            raise UserError(f"The refiner in {folder} was trained for {config.task}, not {task}; give one "
                            f"for {task}.")
        task_named(config.task)
        _check_fixed(called or folder, config, asked)
        backbone = None if config.base is None else _base_of(folder, config, dtype)
        try:
            refiner = cls(config, backbone, pretrained=True, device=device)
            refiner._add_lora()
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'config.json'} describes no refiner that can be built "
                            f"({first_line(error)}); copy or train the refiner again.") from error
        try:
            refiner._take(load_file(folder / WEIGHTS))
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                written_with = (file.metadata() or {}).get("config")
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"The weights in {folder} are incomplete or of another architecture "
                            f"({first_line(error)}); copy or train the refiner again.") from error
        if written_with != config.digest:
            raise UserError(f"{folder / 'config.json'} and {WEIGHTS} beside it were not written together; copy or train the "
                            "refiner again.")
        return refiner

    def _add_lora(self) -> None:
        if any(self.config.lora.values()):
            from chopgrad_ns.refiner.finetune.lora import add_lora

            add_lora(self.model, self.config.lora)

    def _take(self, tensors: dict[str, Tensor]) -> None:
        """Load what `save` stored over what the base gave. Raises RuntimeError where it is not this refiner's."""
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        needed = [name for name in missing if self.config.base is None or not name.startswith("backbone.")]
        if needed or unexpected:
            raise RuntimeError(f"{len(needed)} tensors are missing and {len(unexpected)} too many, such as "
                               f"{[*needed, *unexpected][0]}")
        self.trained = {name for name in tensors if name.startswith("backbone.")}

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors`; they appear, or are replaced, when complete.

        Tensors that are those of `config.base` still are left out. Each file is whole or absent, and loading tells two that
        are not of one save. With `dtype`, such as torch.float16, values are rounded to that; what is loaded has 32 bits again.
        Raises UserError for a folder that is a file, or below one.
        """
        from chopgrad_ns.refiner.finetune.lora import plain_name

        folder = Path(folder).resolve()
        refuse_file(folder)
        temporary = folder.with_name(folder.name + ".part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        trained = {plain_name(name) for name in self.trained}
        tensors = {name: value.to(dtype).contiguous() for name, value in self.model.state_dict().items()
                   if self.config.base is None or not name.startswith("backbone.") or plain_name(name) in trained
                   or name.startswith("backbone.condition_embed.")}
        save_file(tensors, temporary / WEIGHTS, {"config": self.config.digest})
        (temporary / "config.json").write_text(self.config.to_json())
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, "config.json"):  # config last: a folder without it is no refiner
            os.replace(temporary / name, folder / name)
        temporary.rmdir()

    def __call__(self, clip: Clip, size: tuple[int, int] | None = None, windows: Windows = Windows()
                 ) -> Float[Tensor, "t 3 h w"]:
        """Refine a clip of any length and size in a single step; long ones in windows, large ones in tiles if asked for.

        Args:
            size: height and width of the output in pixels, for a task that enlarges.

        Raises:
            UserError: for a clip that the task cannot take, or with values that are not finite.
        """
        refined = clip.frames
        for number, frame in enumerate(self.stream(clip.__getitem__, len(clip), size, windows)):
            if not number:
                refined = frame.new_empty(len(clip), *frame.shape)
            refined[number] = frame
        return refined

    def stream(self, read: Callable[[slice], Clip], length: int, size: tuple[int, int] | None = None,
               windows: Windows = Windows(), progress: Callable[[int, int], None] | None = None
               ) -> Iterator[Float[Tensor, "3 h w"]]:
        """Refined frames one by one, of a clip too long to be in memory.

        Args:
            read: gives some of its `length` frames; called once a window, in order.
            progress: called with the passes that are done and those that there are.
        """
        self.model.eval()
        kept: dict[int, tuple[Tensor, Tensor | None]] = {}  # frames to come as they went in, and where they must come out so

        def prepared(part: slice) -> Clip:
            clip = self.task.prepare(read(part), size)
            gate = self.task.gate(clip)
            if gate is not None or self.config.keep_contrast:
                kept.update({part.start + t: (clip.frames[t], None if gate is None else gate[t] == 0) for t in range(len(clip))})
            return clip

        backbone = self.model.backbone
        frames = refine_stream(self._pass, prepared, length, windows, backbone.frame_step, backbone.spatial_factor, progress)
        for number, frame in enumerate(frames):
            given, closed = kept.pop(number, (None, None))
            if self.config.keep_contrast:
                frame = raised(frame[None], contrast(given[None]))[0]
            yield frame if closed is None else torch.where(closed, given, frame)

    @torch.no_grad()
    def _pass(self, clip: Clip) -> Float[Tensor, "t 3 h w"]:
        """One pass over a prepared clip."""
        count, _, height, width = clip.frames.shape
        dtype = torch.float32 if self.precision == "bf16" else self.model.prompt.dtype
        batch = collate([clip.to(self.device, dtype)], self.config, self.model.backbone)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            refined = self.model(batch)[0]
        return refined[:count, :, :height, :width].clamp(0, 1).to(clip.frames)


def _last_channels_first(model: torch.nn.Module) -> None:
    """On the CPU, 3D convolutions of few channels run backward 2.5 times as fast in this layout."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            is_3d = isinstance(module, torch.nn.Conv3d)
            module.to(memory_format=torch.channels_last_3d if is_3d else torch.channels_last)


def _is_ours(folder: Path) -> bool:
    """Whether `save` wrote a folder, or half of one; diffusers names its class in a `config.json`."""
    if (folder / WEIGHTS).is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and "_class_name" not in config.read_text(errors="replace")


def _place(source: str | Path | None) -> str | None:
    """A Hugging Face id, or where a folder is, whatever the working directory will be."""
    if source is None:
        return None
    return os.path.abspath(source) if Path(source).is_dir() else str(source)


def _check_fixed(source: str | Path, config: RefinerConfig, asked: dict) -> None:
    """Raise UserError where something else is asked for than a refiner was made with."""
    for name, value in asked.items():
        there = config.prompt["text"] if name == "prompt" else getattr(config, name)
        if value != there:
            raise UserError(f"{source} was made with {there!r} for its {name} and takes no {value!r}; leave the {name} out.")


def _base_of(folder: Path, config: RefinerConfig, dtype: torch.dtype | None) -> Backbone:
    """The model that a checkpoint was made from. Raises UserError where it is gone, or another now."""
    for name in ("base", "parts"):
        place = getattr(config, name)
        if place is not None and os.path.isabs(place) and not os.path.isdir(place):
            raise UserError(f"The refiner in {folder} was made from {place}, which is not there any more; put it back, or "
                            f"write where it is now after \"{name}\" in {folder / 'config.json'}.")
    backbone = load(config.base, config.timestep, dtype, config.parts)
    other = ("another architecture" if backbone.config != config.backbone else
             "other weights" if backbone.fingerprint() != config.base_weights else None)
    if other is not None:
        raise UserError(f"The refiner in {folder} was made from {config.base}, which has {other} now; give back the model that "
                        "it was made from.")
    return backbone


def _embedded(places: list[str | Path], texts: list[str], shape: tuple[int, int]) -> tuple[str, Tensor | None]:
    """The first of some texts that can be embedded at one of some places, or the first and None.

    Raises UserError for an embedding with more tokens than `shape`, or of another width.
    """
    for text, place in itertools.product(dict.fromkeys(texts), places):
        embedding = embed_prompt(place, text)
        if embedding is None:
            continue
        if len(embedding) > shape[0] or embedding.shape[1] != shape[1]:
            raise UserError(f"The prompt's embedding that goes with {place} has {len(embedding)} tokens of "
                            f"{embedding.shape[1]} values, where the model takes up to {shape[0]} of {shape[1]}; give the text "
                            "encoder, or the stored embedding, that belongs to it.")
        return text, embedding
    return texts[0], None
