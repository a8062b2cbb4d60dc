"""Features of what goes with a render: alpha, depth, and photos warped into the view."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConditionEncoder(nn.Module):
    """Per-frame features at full, half and quarter resolution.

    References are a set: each goes through the same layers, and mean and maximum over them go on, so any
    number (none included) in any order will do. Frames are kept apart; time is the causal decoder's business.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        full, half, low = channels
        self.base = nn.Conv2d(5, full, 3, padding=1)
        self.reference = nn.Conv2d(9, full, 3, padding=1)
        self.mix = nn.Conv2d(3 * full, full, 1)
        self.to_full = nn.Conv2d(full, full, 3, padding=1)
        self.to_half = nn.Sequential(nn.Conv2d(full, half, 3, stride=2, padding=1), nn.SiLU(),
                                  nn.Conv2d(half, half, 3, padding=1), nn.SiLU())
        self.to_low = nn.Sequential(nn.Conv2d(half, low, 3, stride=2, padding=1), nn.SiLU(),
                                 nn.Conv2d(low, low, 3, padding=1), nn.SiLU())

    def forward(self, render: Float[Tensor, "n 3 h w"], alpha: Float[Tensor, "n 1 h w"],
                nearness: Float[Tensor, "n 1 h w"], residuals: Float[Tensor, "n r 3 h w"],
                masks: Float[Tensor, "n r 1 h w"]) -> list[Tensor]:
        """Features [n, c, h/s, w/s] for s = 1, 2, 4.

        Pictures are in 0…1; `residuals` are masked differences warped photo − render, in −1…1.
        """
        base = torch.cat([render, alpha, nearness], dim=1)
        x = F.silu(self.base(base))
        count = residuals.shape[1]
        if count:
            each = torch.cat([base[:, None].expand(-1, count, -1, -1, -1), residuals, masks], dim=2)
            seen = F.silu(self.reference(each.flatten(0, 1))).unflatten(0, (-1, count))
            summary = torch.cat([seen.mean(dim=1), seen.amax(dim=1)], dim=1)
        else:
            summary = x.new_zeros(len(x), 2 * x.shape[1], *x.shape[2:])
        x = F.silu(self.mix(torch.cat([x, summary], dim=1)))
        full = x + F.silu(self.to_full(x))
        half = self.to_half(full)
        return [full, half, self.to_low(half)]


def nearness(depth: Float[Tensor, "t 1 h w"]) -> Float[Tensor, "t 1 h w"]:
    """Inverse depth relative to the clip's median, squashed to 0…1; 0 where there is no depth."""
    seen = depth > 0
    median = depth[seen].median() if seen.any() else depth.new_tensor(1.0)
    return torch.where(seen, median / (median + depth.clamp_min(1e-6)), torch.zeros_like(depth))


def pool_time(x: Float[Tensor, "b t c h w"], factor: int) -> Float[Tensor, "b c s h w"]:
    """Mean over the causal groups of `factor` frames; the first frame is a group of its own."""
    x = x.transpose(1, 2)
    if factor == 1:
        return x
    first, rest = x[:, :, :1], x[:, :, 1:]
    if not rest.shape[2]:
        return first
    return torch.cat([first, rest.unflatten(2, (-1, factor)).mean(dim=3)], dim=2)
