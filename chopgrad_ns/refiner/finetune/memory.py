"""Which way through the decoder fits into what memory a training leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chopgrad_ns.chopgrad import Backprop, Exact, Full, Plan, SpatialTiles, plan
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.finetune.distributed import bytes_here
from chopgrad_ns.refiner.model import collate

if TYPE_CHECKING:
    from chopgrad_ns.refiner.model import RefinerModel


def planned(model: RefinerModel, trained: Mapping[str, nn.Parameter], shape: tuple[int, int, int, int], references: int,
            budget: int, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Plan:
    """The fastest way through the decoder for clips of this (batch, frames, height, width), with
    so many references.

    From the budget go the weights, gradients, averages and AdamW's two means of what is trained, and what the model
    in front of the decoder takes, which is measured by running it once.

    Raises:
        UserError: where nothing fits; it says which budget would do.
    """
    held = sum(bytes_here(tensor) for tensor in (*model.parameters(), *model.buffers()))
    held += 4 * sum(bytes_here(parameter) for parameter in trained.values())
    batch, frames, height, width = shape
    device = model.prompt.device
    one = torch.ones(frames, 1, height, width, device=device)
    seen = one[:, None].expand(-1, references, 3, -1, -1)
    clip = Clip(one.expand(-1, 3, -1, -1), alpha=one, depth=one, mask=one, references=seen, reference_masks=seen[:, :, :1])
    given, found = collate([clip] * batch, model.config, model.backbone), []
    held += peak_bytes(lambda: found.append(model.predict(given)), device)
    latents = tuple(found.pop().latents.shape)
    found = plan(model.decoder, latents, 2**62, loss_fn, side=partial(model.example_side, references=references))
    try:
        return found.within(budget - held)
    except ValueError as error:
        needed = held + min(one.peak_bytes for one in found.alternatives)
        raise UserError(f"{budget / 1e9:.3g} GB are too little to train on {batch} × {frames} frames of {height}×{width} "
                        f"pixels; give --memory-budget {needed / 1e9 + 0.0005:.3f}GB, or smaller buckets.") from error


def strategy_to_json(strategy: Backprop) -> dict:
    """A strategy as JSON, for `strategy_from_json`."""
    return {"name": type(strategy).__name__, **asdict(strategy)}


def strategy_from_json(about: Mapping) -> Backprop:
    fields = dict(about)
    kind = {"Full": Full, "Exact": Exact}[fields.pop("name")]
    if fields["tiles"] is not None:
        fields["tiles"] = SpatialTiles(**fields["tiles"])
    return kind(**fields)
