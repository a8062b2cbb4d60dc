"""Fine-tuning with pixel losses through the causal decoder, over whole trajectories."""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.chopgrad import Backprop, Exact, pixel_loss
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import Weighted
from chopgrad_ns.refiner.refiner import Refiner, collate


@dataclass
class FinetuneSettings:
    """How to train. The defaults take about a second a step on two cores."""

    steps: int = 400
    lr: float = 1e-3
    """highest learning rate of AdamW; it rises over 5 % of the steps and falls along a cosine"""
    crop: int = 48
    """pixels, width and height"""
    clip_frames: int = 9
    """frames of an ordinary example"""
    batch: int = 3
    """ordinary examples a step, each from another pair where there are enough"""
    whole_every: int = 8
    """every k-th step trains on one whole trajectory instead"""
    losses: dict[str, float] = field(default_factory=lambda: {"robust_l1": 1.0, "ssim": 0.2})
    """weights of `chopgrad_ns.losses`"""
    reference_dropout: float = 0.1
    """chance that an example comes with fewer references"""
    min_alpha: float = 0.5
    """pixels less opaque than this are not trained on: nothing is there to mend"""
    ema: float = 0.99
    """decay of the averaged weights, which are the result; 0 for none"""
    clip_gradient: float = 1.0
    checkpoint_every: int = 50
    """steps"""
    seed: int = 0


def finetune(refiner: Refiner, pairs: Sequence[Pair], settings: FinetuneSettings | None = None,
             progress: Callable[[int, int], None] | None = None, checkpoint_dir: Path | None = None,
             backprop: Backprop = Exact()) -> dict[str, float]:
    """Train `refiner` in place on `pairs`.

    With `checkpoint_dir`, progress is kept there and taken up again: the examples of a step follow from the seed and its
    number, so an interrupted training ends where an uninterrupted one does. Steps whose loss or gradient is not finite
    are skipped; ten in a row raise UserError.

    Returns:
        `loss`, the mean over the last tenth of the steps, and `skipped`, the number of steps left out.
    """
    settings = settings or FinetuneSettings()
    if not pairs:
        raise UserError("There are no pairs to train on; make some with chopgrad pairs.")
    run = _Run(refiner, settings, backprop)
    if checkpoint_dir is not None:
        run.resume(Path(checkpoint_dir))
    refiner.model.train()
    while run.step < settings.steps:
        run.train_step(pairs)
        if progress is not None:
            progress(run.step, settings.steps)
        if checkpoint_dir is not None and (run.step % settings.checkpoint_every == 0 or run.step == settings.steps):
            run.save(Path(checkpoint_dir))
    refiner.model.load_state_dict(run.average)
    refiner.model.eval()
    refiner.pretrained = True
    recent = run.losses[-max(len(run.losses) // 10, 1):]
    return {"loss": sum(recent) / max(len(recent), 1), "skipped": run.skipped}


class _Run:
    """The state of a training: model, optimizer, averaged weights, step."""

    def __init__(self, refiner: Refiner, settings: FinetuneSettings, backprop: Backprop):
        self.refiner, self.settings, self.backprop = refiner, settings, backprop
        self.model = refiner.model
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=settings.lr, weight_decay=1e-4)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.loss_fn = Weighted(settings.losses)
        self.step, self.skipped, self._skipped_in_a_row = 0, 0, 0
        self.losses: list[float] = []

    def train_step(self, pairs: Sequence[Pair]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * _schedule(self.step, self.settings.steps)
        draw = random.Random(f"{self.settings.seed}/{self.step}")
        examples = _examples(pairs, self.settings, draw, self.step, self.refiner.config.spatial_factor)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self._loss(examples)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_gradient)
            finite = bool(torch.isfinite(norm))
        except ValueError as error:  # pixel_loss names the frames of a loss that is not finite
            if "not finite" not in str(error):
                raise
            finite = False
        self.step += 1
        if not finite:
            self._skip()
            return
        self._skipped_in_a_row = 0
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        self._update_average()

    def _loss(self, examples: list[tuple[Clip, Tensor]]) -> Tensor:
        batch = collate([clip for clip, _ in examples], self.refiner.config)
        latents, side = self.model.latents_and_side(batch)
        count = batch.render.shape[1]
        target = torch.stack([_fill(target, count) for _, target in examples]).transpose(1, 2)
        return pixel_loss(latents, target, self.model.decoder, self.loss_fn, self.backprop, side=side)

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        print(f"step {self.step}: loss or gradient is not finite; skipped", file=sys.stderr)
        if self._skipped_in_a_row >= 10:
            raise UserError(f"Ten steps in a row up to step {self.step} had a loss that is not finite; lower the learning rate.")

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average starts fast, so that the first steps do not drag the untrained weights along.
        decay = min(self.settings.ema, self.step / (self.step + 10)) if self.settings.ema else 0.0
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, folder: Path) -> None:
        """Write the training's state as safetensors, and last the JSON that makes it count."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimizer/{name}/{key}": value for key, value in self.optimizer.state[parameter].items()}
        name = f"step-{self.step}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / (name + ".part"))
        os.replace(folder / (name + ".part"), folder / name)
        about = {"step": self.step, "file": name, "skipped": self.skipped, "losses": self.losses,
                 "settings": asdict(self.settings)}
        (folder / "progress.json.part").write_text(json.dumps(about))
        os.replace(folder / "progress.json.part", folder / "progress.json")
        for old in folder.glob("step-*.safetensors"):
            if old.name != name:
                old.unlink()

    def resume(self, folder: Path) -> None:
        path = folder / "progress.json"
        if not path.exists():
            return
        try:
            about = json.loads(path.read_text())
            tensors = load_file(folder / about["file"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"The progress of the training in {folder} cannot be read ({error}); delete it to start anew.") from error
        if about["settings"] != asdict(self.settings):
            raise UserError(f"The training in {folder} was started with other settings; use the same, or another folder.")
        part = lambda prefix: {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}  # noqa: E731
        self.model.load_state_dict(part("model/"))
        self.average = part("average/")
        for name, parameter in self.parameters.items():
            state = part(f"optimizer/{name}/")
            if state:
                self.optimizer.state[parameter] = state
        self.step, self.skipped, self.losses = about["step"], about["skipped"], about["losses"]


def _schedule(step: int, steps: int) -> float:
    warmup = max(steps // 20, 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) * 0.98 + 0.02


def _examples(pairs: Sequence[Pair], settings: FinetuneSettings, draw: random.Random, step: int,
              block: int) -> list[tuple[Clip, Tensor]]:
    """Crops for one step: degraded clips, and targets [T, 4, h, w] in −1…1 with a weight as fourth channel."""
    whole = settings.whole_every > 0 and step % settings.whole_every == settings.whole_every - 1
    count = 1 if whole else settings.batch
    chosen = draw.sample(range(len(pairs)), count) if count <= len(pairs) else draw.choices(range(len(pairs)), k=count)
    references = min(_reference_count(pairs[i].degraded) for i in chosen)
    if references and draw.random() < settings.reference_dropout:
        references = draw.randrange(references)
    size = min(settings.crop, *(min(pairs[i].clean.shape[-2:]) for i in chosen)) // block * block
    return [_example(pairs[i], None if whole else settings.clip_frames, max(size, block), references, settings, draw)
            for i in chosen]


def _reference_count(clip: Clip) -> int:
    return 0 if clip.references is None else clip.references.shape[1]


def _example(pair: Pair, frames: int | None, size: int, references: int, settings: FinetuneSettings,
             draw: random.Random) -> tuple[Clip, Tensor]:
    clip, (count, _, height, width) = pair.degraded, pair.clean.shape
    length = count if frames is None else min(frames, count)
    start = draw.randrange(count - length + 1)
    top, left = draw.randrange(max(height - size, 0) + 1), draw.randrange(max(width - size, 0) + 1)
    flips = [axis for axis in (-1, -2) if draw.random() < 0.5]
    backwards = draw.random() < 0.5

    def cut(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        value = value[start : start + length, ..., top : top + size, left : left + size]
        value = value.flip(0) if backwards else value
        value = value.flip(flips) if flips else value
        if frames is not None and length < frames:  # short clips wait on their last frame
            value = torch.cat([value, value[-1:].expand(frames - length, *value.shape[1:])])
        return value

    chosen = sorted(draw.sample(range(_reference_count(clip)), references))
    pick = lambda value: None if value is None or not references else value[:, chosen]  # noqa: E731
    cropped = Clip(cut(clip.frames), alpha=cut(clip.alpha), depth=cut(clip.depth), references=cut(pick(clip.references)),
                   reference_masks=cut(pick(clip.reference_masks)))
    weight = torch.ones_like(cropped.frames[:, :1]) if pair.valid is None else cut(pair.valid)
    if cropped.alpha is not None:
        weight = weight * (cropped.alpha >= settings.min_alpha)
    if frames is not None and length < frames:
        weight = torch.cat([weight[:length], torch.zeros_like(weight[length:])])
    return cropped, torch.cat([2 * cut(pair.clean) - 1, weight], dim=1)


def _fill(target: Tensor, count: int) -> Tensor:
    """Frames added by padding carry no weight."""
    extra = count - len(target)
    if not extra:
        return target
    padding = target[-1:].expand(extra, -1, -1, -1).clone()
    padding[:, 3:] = 0
    return torch.cat([target, padding])
