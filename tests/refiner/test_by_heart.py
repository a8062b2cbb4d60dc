"""The tiny refiner can represent the answer at all: one clip, changed everywhere or in a hole only, learnt by heart."""

import pytest

from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from tests.refiner.clips import task_pair

SETTINGS = FinetuneSettings(steps=160, lr=5e-3, buckets="whole=1", losses="l1=1,mse=10", ema=0.9, fresh=False, flips=False,
                            match_exposure=False, unaligned=0, reference_dropout=0, reference_disorder=0)


@pytest.mark.parametrize("task", ["artifact-removal", "inpainting"])
def test_a_clip_is_learnt_by_heart(task):
    example = task_pair(task, frames=5, height=16, width=16)
    refiner = Refiner(RefinerConfig(task=task))

    def quality() -> float:
        """PSNR in dB; of inpainting in the hole, for the rest is given."""
        refined, clean = refiner(example.degraded, example.size), example.clean
        if task == "inpainting":
            hole = example.degraded.mask.bool().expand_as(clean)
            return float(-10 * (refined - clean)[hole].square().mean().log10())
        return float(psnr(refined, clean).mean())

    before = quality()
    finetune(refiner, [example], SETTINGS)
    assert before < 28 and quality() >= 35
