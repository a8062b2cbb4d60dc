"""Each backbone and task, from the published layout to refined frames, by way of an interrupted training."""

import json
import shutil

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from tests.refiner.clips import TASKS, task_pair
from tests.refiner.published import KINDS, write_published

WAYS = {
    "full": {"transformer": "full", "decoder": "full", "encoder": "full"},
    "lora": {"transformer": "lora", "decoder": "lora", "encoder": "frozen", "rank": 2},
    "decoder": {"transformer": "frozen", "decoder": "full", "encoder": "frozen"},
}
# Each backbone and each task meet every way.
CASES = [(kind, task, list(WAYS)[(i + j) % 3]) for i, kind in enumerate((*KINDS, "tiny")) for j, task in enumerate(TASKS)]
STEPS, KEPT = 20, 15


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return {"tiny": "tiny"} | {kind: write_published(folder / kind / "model", kind) for kind in KINDS}


def settings(way: str, frame_step: int) -> FinetuneSettings:
    """Half of the steps on clips of as few frames as two latents are made from, half on single frames."""
    return FinetuneSettings(steps=STEPS, buckets=f"{frame_step + 1}x16x16,1x16x16", losses="l1=1,latent=0.1", lr=1e-3, scale=2,
                            degradation="bicubic", checkpoint_every=KEPT, ema=0.5, **WAYS[way])


@pytest.mark.parametrize("kind, task, way", CASES, ids=["-".join(case) for case in CASES])
def test_from_a_published_model_to_refined_frames(published, tmp_path, kind, task, way):
    pairs = [task_pair(task, frames=9, seed=seed) for seed in range(2)]
    untrained = Refiner.from_pretrained(published[kind], task=task)
    chosen = settings(way, untrained.model.backbone.frame_step)

    def keep(step, steps):
        if step == KEPT + 1:
            shutil.copytree(tmp_path / "progress", tmp_path / "kept")

    whole = Refiner.from_pretrained(published[kind], task=task)
    result = finetune(whole, pairs, chosen, keep, tmp_path / "progress")
    assert result["skipped"] == 0
    assert json.loads((tmp_path / "kept" / "progress.json").read_text())["step"] == KEPT
    resumed, steps = Refiner.from_pretrained(published[kind], task=task), []
    finetune(resumed, pairs, chosen, lambda step, _: steps.append(step), tmp_path / "kept")
    assert steps == list(range(KEPT + 1, STEPS + 1))
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    resumed.save(tmp_path / "refiner")
    loaded = Refiner.from_pretrained(tmp_path / "refiner", task=task)
    clip, size = pairs[0].degraded, pairs[0].size
    refined = [refiner(clip, size) for refiner in (untrained, whole, loaded)]
    assert all(frames.shape == pairs[0].clean.shape and frames.isfinite().all() for frames in refined)
    torch.testing.assert_close(refined[1], refined[2], atol=1e-5, rtol=0)
    assert (refined[0] - refined[1]).abs().max() > 1e-3, "it learnt something"


@pytest.mark.parametrize("kind", ["wan2.1", "cogvideox-2b"])
def test_a_base_in_bfloat16_is_trained_as_one_in_float32(published, kind):
    """With LoRA the frozen weights are in bfloat16 either way; validation goes on beside it."""
    pairs, results = [task_pair("driving", frames=9, seed=seed) for seed in range(2)], []
    quick = FinetuneSettings(steps=2, buckets="9x32x32", losses="l1=1,latent=1", lr=1e-3, precision="bf16", validate_every=1,
                             gradient_checkpointing=True, **WAYS["lora"])
    for dtype in (torch.float32, torch.bfloat16):
        refiner = Refiner.from_pretrained(published[kind], task="driving", dtype=dtype)
        results.append(finetune(refiner, pairs[:1], quick, validation=pairs[1:]))
    assert results[0]["loss"] == results[1]["loss"] and results[0]["psnr_before"] == pytest.approx(results[1]["psnr_before"])
    assert results[0]["psnr_after"] > results[0]["psnr_before"] and results[0]["psnr_before"] != results[0]["psnr_render"]
    with pytest.raises(UserError, match="give --precision bf16"):
        finetune(Refiner.from_pretrained(published[kind], task="driving", dtype=torch.bfloat16), pairs, settings("lora", 8))


def test_training_is_not_taken_up_by_another_base(published, tmp_path):
    pairs = [task_pair("inpainting", frames=9)]
    quick = FinetuneSettings(steps=1, buckets="1x16x16", losses="latent=1")
    finetune(Refiner.from_pretrained(published["wan2.1"], task="inpainting"), pairs, quick, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"is of another refiner \(backbone, base"):
        finetune(Refiner.from_pretrained(published["dove"], task="inpainting"), pairs, quick, checkpoint_dir=tmp_path)
    other = write_published(tmp_path / "other", "wan2.1")
    shutil.copy(published["wan2.2-a14b"] / "transformer" / "diffusion_pytorch_model.safetensors",
                other / "transformer" / "diffusion_pytorch_model.safetensors")
    lora = FinetuneSettings(steps=1, buckets="1x16x16", losses="latent=1", **WAYS["lora"])
    first, second = (Refiner.from_pretrained(folder, task="inpainting") for folder in (published["wan2.1"], other))
    second.config.base, second.config.base_weights = first.config.base, first.config.base_weights
    finetune(first, pairs, lora, checkpoint_dir=tmp_path / "lora")
    with pytest.raises(UserError, match="from another base"):
        finetune(second, pairs, lora, checkpoint_dir=tmp_path / "lora")
