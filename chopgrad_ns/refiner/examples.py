"""What a training step sees: random crops of pairs, as degraded clips and weighted targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.refiner.settings import FinetuneSettings

BEND = 0.75
"""Standard deviation, in pixels, by which a disordered reference is displaced."""
BEND_GRID = 4
"""Displacements are drawn at this many places in each direction and interpolated."""
EXPOSURE = 0.05
"""Standard deviation of the gain of a disordered reference; a third of it more in each channel."""


@dataclass
class Example:
    """A degraded crop, and its target: clean frames in −1…1 with each pixel's weight as fourth channel."""

    clip: Clip
    target: Float[Tensor, "t 4 h w"]


def draw_examples(pairs: Sequence[Pair | StoredPair], settings: FinetuneSettings, step: int, block: int) -> list[Example]:
    """The examples of a step: crops of one size from different pairs, or one whole trajectory.

    They follow from the seed and the step alone. Sides of a crop are multiples of `block` where possible.
    """
    draw = random.Random(f"{settings.seed}/{step}")
    every = settings.whole_every
    whole = settings.clip_frames is None or (every > 0 and step % every == every - 1)
    count, everything = 1 if whole else settings.batch, range(len(pairs))
    chosen = draw.sample(everything, count) if count <= len(pairs) else draw.choices(everything, k=count)
    references = min(pairs[i].reference_count for i in chosen)
    if references and draw.random() < settings.reference_dropout:
        references = draw.randrange(references)
    smallest = min(min(pairs[i].size) for i in chosen)
    size = min(settings.crop, smallest) // block * block or smallest
    frames = None if whole else settings.clip_frames
    return [_draw(pairs[i], frames, size, references, settings, draw) for i in chosen]


def pixel_weight(clip: Clip, valid: Tensor | None, min_alpha: float) -> Float[Tensor, "t 1 h w"]:
    """How much each pixel counts: where the truth is known and the splat shows something."""
    weight = torch.ones_like(clip.frames[:, :1]) if valid is None else valid
    return weight if clip.alpha is None else weight * (clip.alpha >= min_alpha)


def padded_target(target: Float[Tensor, "t 4 h w"], frames: int, height: int,
                  width: int) -> Float[Tensor, "t2 4 h2 w2"]:
    """Grow a target to a padded clip's size; what is added carries no weight."""
    grown = target.new_zeros(frames, 4, height, width)
    grown[: len(target), :, : target.shape[2], : target.shape[3]] = target
    return grown


def _draw(stored: Pair | StoredPair, frames: int | None, size: int, references: int, settings: FinetuneSettings,
          draw: random.Random) -> Example:
    """A crop of `size` × `size`, turned over in space and time at random; short clips wait at their end."""
    count, (height, width) = len(stored), stored.size
    length = count if frames is None else min(frames, count)
    waiting = 0 if frames is None else frames - length
    start = draw.randrange(count - length + 1)
    top, left = draw.randrange(height - size + 1), draw.randrange(width - size + 1)
    flips = [axis for axis in (-1, -2) if draw.random() < 0.5]
    backwards = draw.random() < 0.5
    chosen = sorted(draw.sample(range(stored.reference_count), references))
    pair = stored.read(slice(start, start + length))
    clip = pair.degraded

    def cut(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        value = value[..., top : top + size, left : left + size]
        value = value.flip(0) if backwards else value
        value = value.flip(flips) if flips else value
        return torch.cat([value, value[-1:].expand(waiting, *value.shape[1:])])

    def some(value: Tensor | None) -> Tensor | None:
        return value[:, chosen] if references else None

    seen, masks = some(cut(clip.references)), some(cut(clip.reference_masks))
    if seen is not None:
        seen, masks = _disordered(seen, masks, settings.reference_disorder, draw)
    cropped = Clip(cut(clip.frames), alpha=cut(clip.alpha), depth=cut(clip.depth), references=seen,
                   reference_masks=masks)
    weight = pixel_weight(cropped, cut(pair.valid), settings.min_alpha).clone()
    weight[length:] = 0
    return Example(cropped, torch.cat([2 * cut(pair.clean) - 1, weight], dim=1))


def _disordered(references: Float[Tensor, "t r 3 h w"], masks: Float[Tensor, "t r 1 h w"], chance: float,
                draw: random.Random) -> tuple[Float[Tensor, "t r 3 h w"], Float[Tensor, "t r 1 h w"]]:
    """References as poses and depths that are a little wrong would warp them, from a photo exposed differently.

    Each reference has one displacement field and one gain for all its frames, since it is mostly one photo.
    """
    generator = torch.Generator().manual_seed(draw.getrandbits(63))
    height, width = references.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    bent = torch.cat([references, masks], dim=2)
    for k in range(references.shape[1]):
        if draw.random() >= chance:
            continue
        coarse = BEND * torch.randn(1, 2, BEND_GRID, BEND_GRID, generator=generator)
        flow = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)[0]
        grid = torch.stack([x + 2 * flow[0] / max(width - 1, 1), y + 2 * flow[1] / max(height - 1, 1)], dim=-1)
        grid = grid.to(bent).expand(len(bent), -1, -1, -1)
        bent[:, k] = F.grid_sample(bent[:, k], grid, padding_mode="border", align_corners=True)
        gain = 1 + EXPOSURE * (torch.randn(1, generator=generator) + torch.randn(3, generator=generator) / 3)
        bent[:, k, :3] = (bent[:, k, :3] * gain.to(bent).view(3, 1, 1)).clamp(0, 1)
    return bent[:, :, :3], bent[:, :, 3:]
