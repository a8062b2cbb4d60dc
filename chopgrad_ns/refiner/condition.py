"""Features of what goes with a clip's frames: alpha, depth or mask, and photos, warped into the view or not."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PHOTO_SIDE = 256
"""Longest side, in pixels, at which photos that are not aligned are looked at."""
DIFFERENCE_GAIN = 8.0
"""Differences between photos and frames are small beside the pictures that go through the same layers."""


class ConditionEncoder(nn.Module):
    """Per-frame features at full, half, … resolution, one level for each of `channels`.

    References are a set: each goes through the same layers, and mean and maximum over them go on, so any number (none
    included) in any order will do. Frames are kept apart; time is the causal decoder's business.
    """

    def __init__(self, extra: int, channels: list[int]):
        super().__init__()
        full = channels[0]
        self.base = nn.Conv2d(3 + extra, full, 3, padding=1)
        self.reference = nn.Conv2d(3 + extra + 4, full, 3, padding=1)
        self.mix = nn.Conv2d(3 * full, full, 1)
        self.to_full = nn.Conv2d(full, full, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, narrow, 3, stride=2, padding=1), nn.SiLU(),
                          nn.Conv2d(narrow, narrow, 3, padding=1), nn.SiLU())
            for wide, narrow in zip(channels, channels[1:]))

    def forward(self, frames: Float[Tensor, "n 3 h w"], extra: Float[Tensor, "n e h w"], residuals: Float[Tensor, "n r 3 h w"],
                masks: Float[Tensor, "n r 1 h w"]) -> list[Tensor]:
        """Features [n, c, h/s, w/s] for s = 1, 2, 4, …

        Pictures are in 0…1; `residuals` are masked differences warped photo − frame, in −1…1.
        """
        base = torch.cat([frames, extra], dim=1)
        x = F.silu(self.base(base))
        count = residuals.shape[1]
        if count:
            each = torch.cat([base[:, None].expand(-1, count, -1, -1, -1), DIFFERENCE_GAIN * residuals, masks], dim=2)
            seen = F.silu(self.reference(each.flatten(0, 1))).unflatten(0, (-1, count))
            summary = torch.cat([seen.mean(dim=1), seen.amax(dim=1)], dim=1)
        else:
            summary = x.new_zeros(len(x), 2 * x.shape[1], *x.shape[2:])
        x = F.silu(self.mix(torch.cat([x, summary], dim=1)))
        features = [x + F.silu(self.to_full(x))]
        for layer in self.down:
            features.append(layer(features[-1]))
        return features


class PhotoAttention(nn.Module):
    """Latent-resolution features of a clip look at photos that nothing aligns with it; what they find is added, at first 0.

    Photos are encoded by the clip's own `ConditionEncoder`, as frames without anything beside them.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads if channels % heads == 0 else 1
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm_clip, self.norm_photos = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b s c h w"], photos: Float[Tensor, "b p c h2 w2"]) -> Float[Tensor, "b s c h w"]:
        tokens = self.norm_clip(x.permute(0, 1, 3, 4, 2).flatten(1, 3))
        seen = self.norm_photos(photos.permute(0, 1, 3, 4, 2).flatten(1, 3))
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        found = F.scaled_dot_product_attention(split(self.query(tokens)), split(self.key(seen)), split(self.value(seen)))
        found = self.out(found.transpose(1, 2).flatten(2))
        return x + found.view(*x.shape[:2], *x.shape[3:], -1).permute(0, 1, 4, 2, 3)


def small_photos(photos: Float[Tensor, "p 3 h w"], multiple: int) -> Float[Tensor, "p 3 h2 w2"]:
    """At most `PHOTO_SIDE` on the longer side, sides multiples of `multiple`."""
    height, width = photos.shape[-2:]
    share = min(1.0, PHOTO_SIDE / max(height, width))
    size = [max(multiple, round(side * share / multiple) * multiple) for side in (height, width)]
    return F.interpolate(photos, size, mode="bilinear", antialias=True)


def pool_time(x: Float[Tensor, "b t c h w"], factor: int) -> Float[Tensor, "b c s h w"]:
    """Mean over the causal groups of `factor` frames; the first frame is a group of its own."""
    x = x.transpose(1, 2)
    if factor == 1:
        return x
    first, rest = x[:, :, :1], x[:, :, 1:]
    if not rest.shape[2]:
        return first
    return torch.cat([first, rest.unflatten(2, (-1, factor)).mean(dim=3)], dim=2)
