"""What the embedded refiner is made with, beyond what all trainings share."""

import pytest
import torch
import train_tiny

from chopgrad_ns.refiner import Refiner
from tests.refiner.clips import task_pair


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_a_weakened_refiner_changes_as_much_less(strength):
    refiner = Refiner.from_pretrained("tiny")
    clip = task_pair("artifact-removal", frames=5, seed=0).degraded
    before = refiner(clip) - clip.frames
    inner = refiner.model.head.mix.register_forward_hook(lambda layer, given, found: seen.append(found))
    seen = []
    refiner(clip)
    train_tiny.weaken(refiner, strength)
    after = refiner(clip) - clip.frames
    inner.remove()
    assert before.abs().mean() > 1e-3
    assert float((before * after).sum() / before.square().sum()) == pytest.approx(strength, rel=0.1)
    half = len(seen) // 2
    for one, two in zip(seen[:half], seen[half:]):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4), "the head is told the same"
