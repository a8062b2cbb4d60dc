"""What a training step sees: crops of pairs or whole trajectories, as degraded clips and weighted targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.refiner.finetune.buckets import Bucket, bucket_of, parse_buckets
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from chopgrad_ns.refiner.tasks import Task

BEND = 0.75
"""Standard deviation, in pixels, by which a disordered reference is displaced."""
BEND_GRID = 4
"""Displacements are drawn at this many places in each direction and interpolated."""
EXPOSURE = 0.05
"""Standard deviation of the gain of a disordered reference; a third of it more in each channel."""


USUAL_ERROR, LEAST_ERROR = 0.03, 0.005
"""Mean absolute error, pictures in 0…1, of an example that counts once, and what is added to those of all: the nearly perfect
must not count without bounds.
"""


@dataclass
class Example:
    """A degraded crop at its output's size, and its target: clean frames in −1…1, each pixel's weight as fourth channel."""

    clip: Clip
    target: Float[Tensor, "t 4 h w"]

    @property
    def importance(self) -> float:
        """The less, the more wrong the degraded crop is; 1 at the usual error."""
        weight = self.target[:, 3:]
        error = ((self.clip.frames - self.target[:, :3] / 2 - 0.5).abs().mean(dim=1, keepdim=True) * weight).sum()
        return USUAL_ERROR / (float(error / weight.sum().clamp_min(1e-9)) + LEAST_ERROR)


class Examples:
    """The examples of each step. They follow from the seed, the step and the part alone.

    Args:
        temporal, spatial: of the backbone; frames of a crop are `temporal` · k + 1, its sides multiples of `spatial`.
    """

    def __init__(self, pairs: Sequence[Pair | StoredPair], task: Task, settings: FinetuneSettings, temporal: int, spatial: int):
        self.pairs, self.task, self.settings = pairs, task, settings
        self.temporal, self.spatial = temporal, spatial
        self.buckets = parse_buckets(settings.buckets)

    def draw(self, step: int, part: int = 0, rank: int = 0, processes: int = 1) -> tuple[list[Example], float]:
        """A process's share of a batch, and what its mean loss counts in the mean of all processes' losses.

        A batch has examples of one shape, from different pairs where there are enough. With more processes than
        examples, those left over get one that counts 0, so that all processes do the same.

        Args:
            part: of a step for which several batches are accumulated.
        """
        draw = random.Random(f"{self.settings.seed}/{step}/{part}")
        bucket = bucket_of(self.buckets, step)
        count, everything = bucket.batch, range(len(self.pairs))
        chosen = draw.sample(everything, count) if count <= len(self.pairs) else draw.choices(everything, k=count)
        stored = [self.pairs[index] for index in chosen]
        references = min(pair.reference_count for pair in stored)
        if references and draw.random() < self.settings.reference_dropout:
            references = draw.randrange(references)
        photos = self._photos(stored, draw) if draw.random() < self.settings.unaligned else None
        size = bucket.fitted([(len(pair), *pair.size) for pair in stored], self.temporal, self.spatial)
        seeds = [draw.getrandbits(63) for _ in stored]
        mine = range(rank, count, processes)
        examples = [self._example(stored[i], size, 0 if photos else references, photos[i] if photos else None,
                                  random.Random(seeds[i])) for i in mine or [0]]
        return examples, len(mine) * processes / count

    def _photos(self, stored: list[Pair | StoredPair], draw: random.Random) -> list[Tensor] | None:
        """Unaligned photos for all examples of a batch, if each pair has some and they are of one shape."""
        photos = [self.task.photos(pair, draw) for pair in stored]
        if any(value is None or value.shape != photos[0].shape for value in photos):
            return None
        return photos

    def shapes(self) -> list[tuple[Bucket, tuple[int, int, int]]]:
        """Each bucket, and the frames, height and width of its examples where pairs are large enough."""
        shapes = []
        for bucket in self.buckets:
            if bucket.frames is None:
                shapes.append((bucket, max(((len(pair), *pair.size) for pair in self.pairs), key=lambda x: x[0] * x[1] * x[2])))
            else:
                largest = [tuple(max(side) for side in zip(*((len(pair), *pair.size) for pair in self.pairs)))]
                shapes.append((bucket, bucket.fitted(largest, self.temporal, self.spatial)))
        return shapes

    def largest(self) -> tuple[Bucket, tuple[int, int, int]]:
        """That of `shapes` with most pixels."""
        return max(self.shapes(), key=lambda shape: shape[0].batch * shape[1][0] * shape[1][1] * shape[1][2])

    def _example(self, stored: Pair | StoredPair, size: tuple[int | None, int, int], references: int,
                 photos: Tensor | None, draw: random.Random) -> Example:
        """A crop of this size, turned over in space and time at random; short clips wait at their end."""
        frames, height, width = size
        count = len(stored)
        length = count if frames is None else min(frames, count)
        waiting = 0 if frames is None else frames - length
        start = draw.randrange(count - length + 1)
        top, left = (draw.randrange(whole - side + 1) for whole, side in zip(stored.size, (height, width)))
        chance = 0.5 if self.settings.flips else 0.0
        flips = [axis for axis in (-1, -2) if draw.random() < chance]
        backwards = draw.random() < chance
        chosen = sorted(draw.sample(range(stored.reference_count), references))
        pair = prepared(stored.read(slice(start, start + length)), self.task)
        pair = replace(pair, clean=self.task.target(pair, self.settings))

        def cut(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            value = value[..., top : top + height, left : left + width]
            value = value.flip(0) if backwards else value
            value = value.flip(flips) if flips else value
            return torch.cat([value, value[-1:].expand(waiting, *value.shape[1:])])

        # Turned over, frames are of no camera any more.
        values = {each.name: cut(getattr(pair.degraded, each.name)) for each in fields(Clip)
                  if each.name not in ("cameras", "photos")}
        for name in ("references", "reference_masks"):
            values[name] = values[name][:, chosen] if references else None
        if references:
            values["references"], values["reference_masks"] = _disordered(
                values["references"], values["reference_masks"], self.settings.reference_disorder, draw)
        # Photos are seen whole, but as the crop is turned over in space.
        photos = photos.flip(flips) if photos is not None and flips else photos
        pair = Pair(Clip(**values, photos=photos), cut(pair.clean), pair.name, cut(pair.valid))
        if self.settings.fresh:
            # Of the crop alone, and as it is turned: codecs know where time goes, and a hole should be in the picture.
            redrawn = self.task.redraw(pair, draw, self.settings)
            pair = pair if redrawn is pair else prepared(redrawn, self.task)
        weight = self.task.weight(pair, self.settings).clone()
        weight[length:] = 0
        return Example(pair.degraded, torch.cat([2 * pair.clean - 1, weight], dim=1))


def prepared(pair: Pair, task: Task) -> Pair:
    """A pair whose degraded clip is as the refiner takes it, and of the clean one's size."""
    return Pair(task.prepare(pair.degraded, pair.size), pair.clean, pair.name, pair.valid)


def padded_target(target: Float[Tensor, "t 4 h w"], frames: int, height: int,
                  width: int) -> Float[Tensor, "t2 4 h2 w2"]:
    """Grow a target to a padded clip's size; what is added carries no weight."""
    grown = target.new_zeros(frames, 4, height, width)
    grown[: len(target), :, : target.shape[2], : target.shape[3]] = target
    return grown


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
