"""Per-frame and temporal losses for `pixel_loss`, and their weighted sum."""

from collections.abc import Callable, Mapping

from torch import Tensor

from chopgrad_ns.losses.frames import charbonnier, frame_difference, l1, mse, robust_l1, ssim_loss
from chopgrad_ns.losses.perceptual import perceptual, perceptual_loss

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1, "mse": mse, "charbonnier": charbonnier, "robust_l1": robust_l1, "ssim": ssim_loss,
    "perceptual": perceptual_loss, "frame_difference": frame_difference,
}


class Weighted:
    """Weighted sum of losses by name, such as `Weighted({"l1": 1.0, "ssim": 0.2})`; weights of 0 cost nothing."""

    def __init__(self, weights: Mapping[str, float]):
        unknown = sorted(set(weights) - set(LOSSES))
        if unknown:
            raise ValueError(f"there is no loss {unknown[0]!r}; choose among {', '.join(LOSSES)}")
        self.terms = [(LOSSES[name], weight) for name, weight in weights.items() if weight]
        if not self.terms:
            raise ValueError("all weights are zero; give one loss a weight")
        self.context_frames = max(getattr(loss, "context_frames", 0) for loss, _ in self.terms)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return sum(weight * loss(prediction, target) for loss, weight in self.terms)


__all__ = ["LOSSES", "Weighted", "charbonnier", "frame_difference", "l1", "mse", "perceptual", "perceptual_loss", "robust_l1",
           "ssim_loss"]
