"""Fine-tuning with pixel losses through the causal decoder, over whole trajectories."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.chopgrad import Backprop, Exact, pixel_loss
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json
from chopgrad_ns.losses import LOSSES, Weighted, parse_losses
from chopgrad_ns.refiner.examples import Example, draw_examples, padded_target, pixel_weight
from chopgrad_ns.refiner.model import collate
from chopgrad_ns.refiner.refiner import Refiner
from chopgrad_ns.refiner.settings import FinetuneSettings

LR_UNTRAINED, LR_TRAINED = 1e-3, 2e-4
WARMUP = 0.05
"""Share of the training over which the learning rate rises."""
PATIENCE = 10
"""Steps in a row that may fail before the training gives up."""


def finetune(refiner: Refiner, pairs: Sequence[Pair | StoredPair], settings: FinetuneSettings | None = None,
             progress: Callable[[int, int], None] | None = None, checkpoint_dir: Path | None = None,
             backprop: Backprop = Exact(), validation: Sequence[Pair | StoredPair] = ()) -> dict[str, float]:
    """Train `refiner` in place on `pairs`.

    With `checkpoint_dir`, progress is kept there and taken up again: the examples of a step follow from the
    seed and its number, so an interrupted training ends where an uninterrupted one does (unless `max_seconds`
    decides). Steps whose loss or gradient is not finite are skipped; ten in a row raise UserError. Losses that
    cannot be had are refused before anything else, as by `training_losses`.

    Args:
        progress: called after each step with its number and that of all steps.
        backprop: how far the pixel loss is propagated through the decoder.
        validation: pairs not trained on, refined whole before and after.

    Returns:
        `loss`, the mean over the last tenth of the steps; `skipped`, the number of steps left out; and with
        `validation` the PSNR in dB of the degraded clips, `psnr_render`, and of the refiner as given and as
        trained, `psnr_before` and `psnr_after`.
    """
    settings = settings or FinetuneSettings()
    if not pairs:
        raise UserError("There are no pairs to train on; make some with chopgrad pairs (others than for super-resolution).")
    smaller = [pair.name for pair in pairs if pair.scale != (1, 1)]
    if smaller:
        raise UserError(f"The degraded frames of {smaller[0]} are smaller than the clean ones, and a refiner for "
                        "super-resolution cannot be trained yet; leave such pairs out.")
    run, result = _Run(refiner, settings, backprop), {}
    if validation:
        result["psnr_render"] = _mean_psnr(lambda clip: clip.frames, validation, settings.min_alpha)
        result["psnr_before"] = _mean_psnr(refiner, validation, settings.min_alpha)
    if checkpoint_dir is not None:
        run.resume(Path(checkpoint_dir))
    refiner.model.train()
    while not run.finished:
        run.train_step(pairs)
        if progress is not None:
            progress(run.step, settings.steps)
        if checkpoint_dir is not None and (run.finished or run.step % settings.checkpoint_every == 0):
            run.save(Path(checkpoint_dir))
    refiner.model.load_state_dict(run.average)
    refiner.model.eval()
    refiner.pretrained = True
    recent = run.losses[-max(len(run.losses) // 10, 1):]
    result |= {"loss": sum(recent) / max(len(recent), 1), "skipped": run.skipped}
    if validation:
        result["psnr_after"] = _mean_psnr(refiner, validation, settings.min_alpha)
    return result


def training_losses(text: str) -> Weighted:
    """The losses of `FinetuneSettings`, each tried once: one that starts late must not fail only then.

    Raises:
        UserError: for what `parse_losses` refuses, for a loss that needs optical flow, and for one whose weights are not
            to be had.
    """
    losses = parse_losses(text)
    for name in losses.weights:
        if getattr(LOSSES[name], "needs_flow", False):
            raise UserError(f"The loss {name} needs optical flow, which pairs to fine-tune on do not have; leave it out.")
    picture = torch.zeros(1, 4, 1, 16, 16)
    losses(picture[:, :3], picture)
    return losses


def _mean_psnr(refine: Callable[[Clip], Tensor], pairs: Sequence[Pair | StoredPair], min_alpha: float) -> float:
    """PSNR in dB over the known pixels of a frame, averaged over the frames of all pairs that have any."""
    values = []
    for pair in (stored.read() for stored in pairs):
        weight = pixel_weight(pair.degraded, pair.valid, min_alpha)
        error = ((refine(pair.degraded) - pair.clean) ** 2).mean(dim=1, keepdim=True)
        known = weight.sum(dim=(1, 2, 3))
        mean = (error * weight).sum(dim=(1, 2, 3))[known > 0] / known[known > 0]
        values += (-10 * mean.clamp_min(1e-12).log10()).tolist()
    return sum(values) / max(len(values), 1)


class _Run:
    """The state of a training: model, optimizer, averaged weights, step, time."""

    def __init__(self, refiner: Refiner, settings: FinetuneSettings, backprop: Backprop):
        self.refiner, self.settings, self.backprop = refiner, settings, backprop
        self.model = refiner.model
        self.parameters = dict(self.model.named_parameters())
        self.lr = settings.lr or (LR_TRAINED if refiner.pretrained else LR_UNTRAINED)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=self.lr, weight_decay=1e-4)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.loss_fn = training_losses(settings.losses)
        self.step, self.skipped, self._skipped_in_a_row, self.seconds = 0, 0, 0, 0.0
        self.losses: list[float] = []

    @property
    def finished(self) -> bool:
        limit = self.settings.max_seconds
        return self.step >= self.settings.steps or (limit is not None and self.seconds >= limit)

    def train_step(self, pairs: Sequence[Pair | StoredPair]) -> None:
        began = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * _schedule(self._share())
        examples = draw_examples(pairs, self.settings, self.step, self.model.backbone.spatial_factor)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(examples)
        self.step += 1
        if loss is None:
            self._skip()
        else:
            self._skipped_in_a_row = 0
            self.optimizer.step()
            self.losses.append(loss)
            self._update_average()
        self.seconds += time.monotonic() - began

    def _share(self) -> float:
        """How much of the training is done, 0…1, by steps or by time."""
        limit = self.settings.max_seconds
        return max((self.step + 0.5) / self.settings.steps, 0.0 if limit is None else self.seconds / limit)

    def _backward(self, examples: list[Example]) -> float | None:
        """Leave clipped gradients in the parameters; return the loss, or None where either is not finite."""
        try:
            loss = self._loss(examples)
            loss.backward()
        except ValueError as error:  # pixel_loss names the frames of a loss that is not finite
            if "not finite" not in str(error):
                raise
            return None
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_gradient)
        return float(loss.detach()) if torch.isfinite(norm) else None

    def _loss(self, examples: list[Example]) -> Tensor:
        clips = [example.clip.to(self.refiner.device) for example in examples]
        batch = collate(clips, self.refiner.config, self.model.backbone)
        prediction = self.model.predict(batch)
        _, frames, _, height, width = batch.frames.shape
        target = torch.stack([padded_target(example.target, frames, height, width) for example in examples])
        target = target.transpose(1, 2)
        return pixel_loss(prediction.latents, target, self.model.decoder, self.loss_fn.at(self.step), self.backprop,
                          prediction.side)

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        print(f"step {self.step}: loss or gradient is not finite; skipped", file=sys.stderr)
        if self._skipped_in_a_row >= PATIENCE:
            raise UserError(f"{PATIENCE} steps in a row up to step {self.step} had a loss that is not "
                            "finite; lower the learning rate, or look for pairs with broken frames.")

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average starts fast, so that the first steps do not drag the untrained weights along.
        decay = min(self.settings.ema, self.step / (self.step + 10)) if self.settings.ema else 0.0
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def save(self, folder: Path) -> None:
        """Write the training's state as safetensors, and last the JSON that makes it count."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
        name = f"step-{self.step}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / (name + ".part"))
        os.replace(folder / (name + ".part"), folder / name)
        write_json(folder / "progress.json", {
            "step": self.step, "file": name, "skipped": self.skipped, "seconds": self.seconds,
            "losses": self.losses, **self._terms()})
        for old in folder.glob("step-*.safetensors*"):
            if old.name != name:
                old.unlink()

    def _terms(self) -> dict:
        """What must be the same for a training to be taken up again."""
        return {"config": asdict(self.refiner.config), "settings": asdict(self.settings), "backprop": str(self.backprop)}

    def resume(self, folder: Path) -> None:
        """Take up what `save` left in `folder`, if anything."""
        path = folder / "progress.json"
        if not path.exists():
            return
        try:
            about = json.loads(path.read_text())
            if any(about[name] != value for name, value in self._terms().items()):
                raise UserError(f"The training in {folder} was started with other settings; use the same, or "
                                "another folder.")
            self._take(about, load_file(folder / about["file"], device=str(self.refiner.device)))
        except (OSError, KeyError, TypeError, json.JSONDecodeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"The progress of the training in {folder} cannot be read ({reason}); delete it "
                            "to start anew.") from error

    def _take(self, about: dict, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}

        self.model.load_state_dict(part("model/"))
        self.average = part("average/")
        for name, parameter in self.parameters.items():
            state = part(f"optimizer/{name}/")
            if state:  # AdamW counts its steps on the CPU, wherever the parameters are
                self.optimizer.state[parameter] = {**state, "step": state["step"].cpu()}
        self.step, self.skipped, self.losses = about["step"], about["skipped"], about["losses"]
        self.seconds = about["seconds"]


def _schedule(share: float) -> float:
    """Learning rate by share of the training done: up, then down along a cosine to 2 %."""
    if share < WARMUP:
        return share / WARMUP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min((share - WARMUP) / (1 - WARMUP), 1.0)))
