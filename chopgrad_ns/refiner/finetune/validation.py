"""How well a refiner does on pairs that it is not trained on: metrics, and films to look at."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.data.video import side_by_side, write_video
from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import perceptual_loss, ssim_loss
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from chopgrad_ns.refiner.tasks import Task

FPS = 12
"""Of the films."""
METRICS = ("psnr", "ssim", "perceptual")
SMALLEST = 16
"""Pixels of the shorter side from which on there is a perceptual distance."""


@dataclass
class Validation:
    """Held-out pairs and how they are looked at; nothing of it is random."""

    pairs: Sequence[Pair | StoredPair]
    task: Task
    settings: FinetuneSettings

    def degraded(self) -> dict[str, float]:
        """Metrics of the clips as they are, brought to the size of the clean ones."""
        return self.measure(lambda clip, size: self.task.prepare(clip, size).frames)

    def measure(self, refine: Callable[[Clip, tuple[int, int]], Tensor],
                show: Callable[[str, Tensor], None] | None = None) -> dict[str, float]:
        """PSNR in dB, SSIM and, of pictures that are large enough, the perceptual distance of `chopgrad_ns.losses`.

        Over the pixels that count, averaged over the frames of all pairs that have any.

        Args:
            refine: gives a clip's frames at a height and width.
            show: is handed each pair's name and its frames as they were, as refined and as they should be, side by side.
        """
        values: dict[str, list[float]] = {}
        for pair in (stored.read() for stored in self.pairs):
            weight = self.task.weight(pair, self.settings)
            refined = refine(pair.degraded, pair.size).to(pair.clean)
            for name, found in frame_metrics(refined, pair.clean, weight).items():
                values.setdefault(name, []).extend(found)
            if show is not None:
                show(pair.name, side_by_side(self.task.prepare(pair.degraded, pair.size).frames, refined, pair.clean))
        return {name: sum(found) / len(found) for name, found in values.items() if found}


@torch.no_grad()
def frame_metrics(refined: Float[Tensor, "t 3 h w"], clean: Float[Tensor, "t 3 h w"],
                  weight: Float[Tensor, "t 1 h w"]) -> dict[str, list[float]]:
    """Metrics of each frame in which some pixel counts. Pixels that do not count are perfect for SSIM and perceptual."""
    known = weight.sum(dim=(1, 2, 3)) > 0
    refined, clean, weight = refined[known], clean[known], weight[known]
    error = ((refined - clean) ** 2).mean(dim=1, keepdim=True)
    mean = (error * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
    values = {"psnr": (-10 * mean.clamp_min(1e-12).log10()).tolist(), "ssim": [], "perceptual": []}
    for frame in range(len(refined)):
        shown = (2 * refined[frame] - 1)[None, :, None]
        target = torch.cat([2 * clean[frame] - 1, weight[frame]])[None, :, None]
        values["ssim"].append(1 - float(ssim_loss(shown, target)))
        if min(refined.shape[-2:]) >= SMALLEST:
            values["perceptual"].append(float(perceptual_loss(shown, target)))
    return values


def film_writer(folder: Path) -> Callable[[str, Tensor], None]:
    """For `Validation.measure`: writes each pair's film into a folder."""
    return lambda name, frames: write_video(folder / f"{name}.mp4", frames, FPS)


def scene_of(pair: Pair | StoredPair) -> str:
    """What tells the scene that a pair was made of from others, however it was read: its content's fingerprint, a sample
    world's kind and seed, or its name; without any of them the pair's own name.
    """
    scene = getattr(pair, "about", {}).get("scene", pair.name)
    if not isinstance(scene, dict):
        return str(scene)
    for names in (("fingerprint",), ("kind", "seed"), ("name",)):
        if all(name in scene for name in names):
            return " ".join(str(scene[name]) for name in names)
    return json.dumps(scene, sort_keys=True)


def check_apart(training: Sequence[Pair | StoredPair], judges: Sequence[Pair | StoredPair]) -> None:
    """Raise UserError where a pair that judges is of a scene that is trained on."""
    trained = {scene_of(pair): pair.name for pair in training}
    for pair in judges:
        if scene_of(pair) in trained:
            raise UserError(f"The pair {pair.name} to judge by is of the same scene as {trained[scene_of(pair)]}, which is "
                            "trained on; leave one of them out, or let whole scenes be kept apart with --hold-out.")


def hold_out(pairs: Sequence[StoredPair], count: int, seed: int) -> tuple[list[StoredPair], list[StoredPair]]:
    """Pairs to train on, and `count` others of scenes that no pair to train on is of.

    Pairs of one scene show the same photos: what is left of the scenes that held-out pairs are of is not used at all.

    Raises:
        UserError: where that leaves nothing to train on, or there are not so many pairs.
    """
    scenes: dict[str, list[StoredPair]] = {}
    for pair in pairs:
        scenes.setdefault(scene_of(pair), []).append(pair)
    order = sorted(scenes)
    random.Random(f"{seed}/hold-out").shuffle(order)
    held: list[StoredPair] = []
    while order and len(held) < count:
        held += scenes[order.pop()]
    if len(held) < count or not order:
        raise UserError(f"Holding out {count} of {len(pairs)} pairs, which are of {len(scenes)} scenes, leaves none of another "
                        "scene to train on; hold out fewer, or give pairs of other scenes with --validation.")
    left = set(order)
    return [pair for pair in pairs if scene_of(pair) in left], held[:count]
