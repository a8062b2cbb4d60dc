"""Weighted sums: their weights over a training, and what a command line may say."""

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import LOSSES, Weight, Weighted, frame_difference, l1, mse, parse_losses, ssim_loss


def clips():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 3, 3, 16, 16, generator=generator).clamp(-1, 1)


def test_weighted_sum():
    prediction, target = clips()
    loss = Weighted({"l1": 2.0, "frame_difference": 0.5, "mse": 0.0})
    assert torch.allclose(loss(prediction, target), 2 * l1(prediction, target) + 0.5 * frame_difference(prediction, target))
    assert loss.context_frames == 1 and Weighted({"l1": 1.0}).context_frames == 0 and list(loss.weights) == ["l1", "frame_difference"]


def test_losses_of_weight_zero_are_not_evaluated(monkeypatch):
    def never(prediction, target):
        raise AssertionError("evaluated")

    monkeypatch.setitem(LOSSES, "dists", never)
    prediction, target = clips()
    assert torch.equal(Weighted({"l1": 1.0, "dists": 0.0})(prediction, target), l1(prediction, target))
    late = Weighted({"l1": 1.0, "dists": Weight(1.0, start=3)})
    assert torch.equal(late.at(2)(prediction, target), l1(prediction, target))
    with pytest.raises(AssertionError, match="evaluated"):
        late.at(3)(prediction, target)


@pytest.mark.parametrize("weight, expected", [
    (Weight(2.0), [2, 2, 2, 2, 2, 2]), (Weight(2.0, start=2), [0, 0, 2, 2, 2, 2]),
    (Weight(2.0, ramp=4), [0.5, 1, 1.5, 2, 2, 2]), (Weight(2.0, start=2, ramp=2), [0, 0, 1, 2, 2, 2]),
    (Weight(2.0, start=2, ramp=1), [0, 0, 2, 2, 2, 2]),
])
def test_weights_by_step(weight, expected):
    assert [weight.at(step) for step in range(6)] == expected


def test_the_sum_of_a_step():
    prediction, target = clips()
    loss = Weighted({"mse": 1.0, "ssim": Weight(0.4, start=10, ramp=4), "frame_difference": Weight(1.0, start=20)})
    values = {name: LOSSES[name](prediction, target) for name in loss.weights}
    for step, ssim, difference in ((0, 0, 0), (9, 0, 0), (10, 0.1, 0), (12, 0.3, 0), (19, 0.4, 0), (20, 0.4, 1), (10**6, 0.4, 1)):
        expected = values["mse"] + ssim * values["ssim"] + difference * values["frame_difference"]
        assert torch.allclose(loss.at(step)(prediction, target), expected)
        assert loss.at(step).context_frames == difference
    assert torch.allclose(loss(prediction, target), sum(values[name] * (0.4 if name == "ssim" else 1) for name in values))
    assert loss.context_frames == 1


@pytest.mark.parametrize("weights, message", [
    ({"l3": 1.0}, "there is no loss 'l3'; choose among l1, mse"), ({"l1": 0.0}, "all weights are zero"), ({}, "all weights"),
    ({"l1": Weight(1.0, start=5)}, "no loss has started at step 0; let one of l1"),
    ({"l1": Weight(1.0, start=5), "mse": 0.0}, "no loss has started"),
])
def test_weights_that_mean_nothing(weights, message):
    with pytest.raises(ValueError, match=message):
        Weighted(weights)


def test_from_the_command_line():
    loss = parse_losses("mse=1, ssim=1e-1,frame_difference=0.5@2000+500,charbonnier=2@30,l1=0")
    assert loss.weights == {"mse": Weight(1.0), "ssim": Weight(0.1), "frame_difference": Weight(0.5, 2000, 500),
                            "charbonnier": Weight(2.0, 30)}
    prediction, target = clips()
    assert torch.allclose(loss.at(0)(prediction, target), mse(prediction, target) + 0.1 * ssim_loss(prediction, target))


@pytest.mark.parametrize("text, message", [
    ("", "'' in the losses '' is not of the form name=weight"), ("mse", "'mse' in"), ("mse=1,", "'' in"),
    ("mse=1@", "form"), ("mse=1@5+", "form"), ("mse=1@-5", "form"), ("mse=1@2.5", "form"),
    ("mse=one", "'one' in the losses 'mse=one' is not a weight"), ("mse=-1", "'-1' in"), ("mse=nan", "'nan'"), ("mse=inf", "'inf'"),
    ("mse=1,mse=2", "name mse twice"), ("mes=1", "there is no loss 'mes'; choose among"), ("mse=0", "all weights are zero"),
    ("mse=1@10", "no loss has started at step 0"),
])
def test_command_lines_that_mean_nothing(text, message):
    with pytest.raises(UserError, match=message):
        parse_losses(text)
