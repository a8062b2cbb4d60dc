"""One training: a step, and the state from one to the next."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chopgrad_ns.chopgrad import Backprop, pixel_loss
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.finetune import checkpoint, distributed, lora, schedule
from chopgrad_ns.refiner.finetune.examples import Example, Examples, padded_target
from chopgrad_ns.refiner.finetune.log import peak_memory
from chopgrad_ns.refiner.finetune.losses import latent_loss, training_losses
from chopgrad_ns.refiner.finetune.memory import planned, strategy_from_json, strategy_to_json
from chopgrad_ns.refiner.finetune.parts import Parts, bfloat16_kept, chosen_parts, frozen_in_bfloat16, is_large, set_trained
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings, bytes_of
from chopgrad_ns.refiner.model import collate
from chopgrad_ns.refiner.refiner import Refiner

LR_UNTRAINED, LR_TRAINED = 1e-3, 2e-4
LR_LARGE, LR_LARGE_LORA = 1e-5, 1e-4
PATIENCE = 10
"""Steps in a row that may fail before the training gives up."""


class Run:
    """The state of a training: model, optimizer, averaged weights, step, time.

    To be used as a context, in which the model is set up for training; afterwards it is as before but for what it learnt.
    """

    def __init__(self, refiner: Refiner, pairs: Sequence[Pair | StoredPair], settings: FinetuneSettings, backprop: Backprop,
                 folder: Path | None = None):
        """`folder`: with what `save` left of the same training, if anything, for `resume`.

        Raises:
            UserError: for what cannot be trained, or is of another training; the refiner is as it was then.
        """
        self.here = distributed.accelerator()
        if settings.fsdp and self.here.num_processes == 1:
            raise UserError("--fsdp divides weights among processes, and there is one; start several with accelerate launch or "
                            "torchrun, or leave it out.")
        self.refiner, self.model, self.pairs = refiner, refiner.model, pairs
        self.settings = settings = replace(settings, losses=settings.losses or refiner.task.losses)
        self.losses_of = training_losses(settings.losses)
        self.parts = chosen_parts(settings, refiner)
        wanted = _lora_wanted(refiner, settings, self.parts)
        if settings.precision == "fp32" and bfloat16_kept(self.model, self.parts):
            raise UserError("The base's weights are in bfloat16 and what is trained is not; give --precision bf16.")
        self.folder, self._found = folder, None
        if folder is not None:
            self.terms = checkpoint.terms_of(replace(refiner.config, lora=wanted), settings, str(backprop),
                                             self.model.state_dict(), pairs)
            self._found = checkpoint.load(folder, self.terms)
        self.before: dict = self._found[0]["before"] if self._found else {}
        if self.here.num_processes > 1:
            self.model.to(self.here.device)
        untrained, self.lr = not refiner.pretrained and refiner.config.base is None, settings.lr
        if self.lr is None and is_large(self.model):
            self.lr = LR_LARGE_LORA if self.parts.transformer == "lora" else LR_LARGE
        self.lr = self.lr or (LR_UNTRAINED if untrained else LR_TRAINED)
        self._required = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        self._lora_before = refiner.config.lora
        _set_lora(refiner, wanted)
        self.trained = set_trained(self.model, self.parts)
        backbone = self.model.backbone
        self.examples = Examples(pairs, refiner.task, settings, backbone.frame_step, backbone.spatial_factor)
        self.backprop, self.sharded = backprop, None
        self.step, self.skipped, self._skipped_in_a_row, self.seconds = 0, 0, 0, 0.0
        self.losses: list[float] = []
        self.noted: dict[str, float | Tensor] = {}
        self._open = ExitStack()

    def __enter__(self) -> Run:
        transformer, settings = self.model.backbone.transformer, self.settings
        if settings.precision == "bf16":
            self._open.enter_context(frozen_in_bfloat16(self.model))
        if settings.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
            self._open.callback(lambda: self.model.backbone.transformer.disable_gradient_checkpointing())
        if settings.fsdp:
            self.sharded = distributed.ShardedTransformer(self.model, self.here)
            self._open.callback(self.sharded.join)
            self.trained = {name: self.model.get_parameter(name) for name in self.trained}
        groups = [{"params": kind} for kind in distributed.by_kind(list(self.trained.values())) if kind]
        self.optimizer = torch.optim.AdamW(groups, lr=self.lr, weight_decay=1e-4)
        self.average = {name: value.detach().clone() for name, value in self.trained.items()}
        self.model.train()
        return self

    def __exit__(self, kind, *rest) -> None:
        self.model.eval()
        self.optimizer = None  # before what was sharded is joined
        if kind is None:
            self._open.close()
        elif self.sharded is None:  # joining needs all processes, and some may be gone
            self._open.close()
            if not self.step:  # refused: a memory budget that is too small, say
                _set_lora(self.refiner, {place: None for place in lora.PLACES if not self._lora_before.get(place)})
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._required.get(name, True))
            parameter.grad = None

    @property
    def finished(self) -> bool:
        limit = self.settings.max_seconds
        return self.step >= self.settings.steps or (limit is not None and self.seconds >= limit)

    def plan(self) -> None:
        """Choose the way through the decoder by the memory that there is, and print what was weighed."""
        bucket, (frames, height, width), loss_fn = *self.examples.largest(), self.losses_of.greatest()
        if loss_fn is None:
            return
        references = max(pair.reference_count for pair in self.pairs)
        with self._own_random(-1), self._autocast():
            found = planned(self.model, self.trained, (bucket.batch, frames, height, width), references,
                            bytes_of(self.settings.memory_budget), loss_fn)
        self.backprop = found.strategy
        if self.here.is_main_process:
            print(f"Ways through the decoder for {bucket.batch} × {frames} frames of {height}×{width} pixels:\n{found}")

    def train_step(self) -> None:
        began = time.monotonic()
        lr = self.lr * schedule.factor(self._share(), self.settings.warmup, self.settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self._own_random(self.step):
            loss = self._gradients()
        self.step += 1
        if loss is None:
            self._skip()
        else:
            self._skipped_in_a_row = 0
            self.optimizer.step()
            self.losses.append(loss)
            self._update_average()
        # The slowest's, for all: the learning rate and the end follow from it.
        took = distributed.largest(self.here, time.monotonic() - began)
        self.seconds += took
        self.noted |= {"lr": lr, "seconds_a_step": took, "peak_gigabytes": peak_memory(self.refiner.device) / 1e9}

    def _share(self) -> float:
        """How much of the training is done, 0…1, by steps or by time."""
        limit = self.settings.max_seconds
        return max((self.step + 0.5) / self.settings.steps, 0.0 if limit is None else self.seconds / limit)

    @contextmanager
    def _own_random(self, step: int):
        """Whatever draws from PyTorch's own generators here does so by seed, step and process alone, and is forgotten."""
        device = self.refiner.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(hash((self.settings.seed, step, self.here.process_index)) % 2**63)
            yield

    def _autocast(self):
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.refiner.device.type, torch.bfloat16)

    def _gradients(self) -> float | None:
        """Leave clipped gradients in the parameters; return the loss, or None where either is not finite."""
        here, total = self.here, self.model.prompt.new_zeros(())
        self.noted = {}
        for part in range(self.settings.accumulate):
            examples, counts = self.examples.draw(self.step, part, here.process_index, here.num_processes)
            loss = self.loss(examples)
            # Before backward, in which FSDP's processes wait for each other.
            if not distributed.together(here, loss is not None and bool(loss.isfinite())):
                return None
            loss = loss * (counts / self.settings.accumulate)
            loss.backward()
            total += loss.detach()
        parameters = list(self.trained.values())
        distributed.average_gradients(here, parameters)
        norm = distributed.clip_gradients(parameters, self.settings.clip_gradient)
        if here.num_processes > 1:
            total = here.reduce(total, "mean")
        self.noted |= {"loss": total, "gradient_norm": norm}
        return float(total) if torch.isfinite(norm) else None

    def loss(self, examples: list[Example]) -> Tensor | None:
        """The loss of a batch, in the present step; None where a frame's is not finite."""
        config, backbone, kind = self.refiner.config, self.model.backbone, self.model.prompt  # of its device and dtype
        frame_by_frame = self.settings.decoding == "frame-by-frame"
        pixels, latent = self.losses_of.at(self.step)
        batch = collate([example.clip.to(kind) for example in examples], config, backbone)
        _, frames, _, height, width = batch.frames.shape
        target = torch.stack([padded_target(example.target.to(kind), frames, height, width) for example in examples])
        with self._autocast():
            prediction = self.model.predict(batch, frame_by_frame)
            loss = kind.new_zeros(())
            if latent:
                clean = [replace(example.clip, frames=example.target[:, :3] / 2 + 0.5).to(kind) for example in examples]
                with torch.no_grad():
                    wanted = self.model.encode(collate(clean, config, backbone).frames, frame_by_frame)
                temporal = 1 if frame_by_frame else backbone.temporal_factor
                value = latent_loss(prediction.z, wanted, target[:, :, 3:], temporal, backbone.latent_factor)
                loss, self.noted["losses/latent"] = loss + latent * value, value.detach()
            if pixels is None:
                return loss
            decoder = self.model.frame_by_frame if frame_by_frame else self.model.decoder
            pixels.record(frames, self.backprop)
            if self.settings.relative:
                pixels.factors = kind.new_tensor([example.importance for example in examples])
            try:
                found = pixel_loss(prediction.latents, target.transpose(1, 2), decoder, pixels, self.backprop, prediction.side)
            except ValueError as error:  # pixel_loss names the frames of a loss that is not finite
                if "not finite" not in str(error):
                    raise
                return None
        pixels.recording = False
        self.noted |= {f"losses/{name}": value for name, value in pixels.means().items()}
        return loss + found if latent else found

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self.here.is_main_process:
            print(f"step {self.step}: loss or gradient is not finite; skipped", file=sys.stderr)
        if self._skipped_in_a_row >= PATIENCE:
            raise UserError(f"{PATIENCE} steps in a row up to step {self.step} had a loss that is not "
                            "finite; lower the learning rate, or look for pairs with broken frames.")

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average starts fast, so that the first steps do not drag the untrained weights along.
        decay = min(self.settings.ema, self.step / (self.step + 10)) if self.settings.ema else 0.0
        for name, value in self.trained.items():
            self.average[name].lerp_(value, 1 - decay)

    @contextmanager
    def refining(self):
        """Within the context the refiner computes as precisely as the settings say."""
        before, self.refiner.precision = self.refiner.precision, self.settings.precision
        try:
            yield
        finally:
            self.refiner.precision = before

    @contextmanager
    def averaged(self):
        """Within the context the model has the averaged weights, with which the refiner refines."""
        self._exchange()
        try:
            with self.refining():
                yield
        finally:
            self.model.train()
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.trained.items():
            current = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name] = current

    @torch.no_grad()
    def keep_average(self) -> None:
        """Make the averaged weights the model's."""
        for name, parameter in self.trained.items():
            parameter.copy_(self.average[name])

    def save(self) -> None:
        """Write the training's state to the folder; the main process does."""
        tensors = {}
        for name, parameter in self.trained.items():
            state = self.optimizer.state.get(parameter, {})
            found = {f"model/{name}": parameter, f"average/{name}": self.average[name]}
            found |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
            for key, value in found.items():
                value = distributed.whole(value.detach())
                if self.here.is_main_process:
                    tensors[key] = value.cpu()  # one by one: put together, they may be more than a GPU holds
        if self.here.is_main_process:
            checkpoint.save(self.folder, tensors, {"step": self.step, "skipped": self.skipped, "seconds": self.seconds,
                                              "losses": self.losses, "before": self.before,
                                              "strategy": strategy_to_json(self.backprop), **self.terms})
        self.here.wait_for_everyone()

    @torch.no_grad()
    def resume(self) -> bool:
        """Take up what `save` left in the folder; False if there is nothing."""
        if self._found is None:
            return False
        (about, tensors), self._found = self._found, None
        checkpoint.check_shapes(self.folder, tensors, self.trained)
        if self.settings.memory_budget is not None:
            self.backprop = strategy_from_json(about["strategy"])
        for name, parameter in self.trained.items():
            distributed.put(parameter, tensors[f"model/{name}"])
            distributed.put(self.average[name], tensors[f"average/{name}"])
            state = checkpoint.part(tensors, f"optimizer/{name}/")
            if state:  # AdamW counts its steps on the CPU, wherever the parameters are
                means = {key: torch.zeros_like(parameter) for key in state if key != "step"}
                for key, value in means.items():
                    distributed.put(value, state[key])
                self.optimizer.state[parameter] = {"step": state["step"], **means}
        self.step, self.skipped, self.losses = about["step"], about["skipped"], about["losses"]
        self.seconds = about["seconds"]
        return True


def _lora_wanted(refiner: Refiner, settings: FinetuneSettings, parts: Parts) -> dict:
    """`RefinerConfig.lora` in training: what is to be trained is there, and not what is to be trained in full."""
    asked, wanted = {"rank": settings.rank, "alpha": settings.alpha or float(settings.rank)}, dict(refiner.config.lora)
    for place in lora.PLACES:
        there, way = wanted.get(place), getattr(parts, place)
        if way == "lora" and there and there != asked:
            raise UserError(f"The {place} of this refiner has LoRA of rank {there['rank']} and alpha {there['alpha']:g}; train "
                            "it with the same, or in full.")
        if way == "lora":
            wanted[place] = asked
        if way == "full" and there:
            wanted[place] = None
    return wanted


def _set_lora(refiner: Refiner, wanted: dict) -> None:
    """Give the model the LoRA that is wanted and not there, and merge into its weights what is there and not wanted."""
    for place, asked in wanted.items():
        there = refiner.config.lora.get(place)
        if asked and not there:
            lora.add_lora(refiner.model, {place: asked})
        if there and not asked:
            lora.merge_lora(refiner.model, place)
    refiner.config.lora = refiner.config.lora | wanted
