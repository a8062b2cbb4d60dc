"""Which weights of a refiner are trained, and how the others are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chopgrad_ns.refiner.finetune.lora import is_lora
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from chopgrad_ns.refiner.model import RefinerModel
    from chopgrad_ns.refiner.refiner import Refiner

LARGE = 100_000_000
"""Weights of a transformer from which on a base counts as large."""


@dataclass(frozen=True)
class Parts:
    """What is trained of each part of a refiner: full, lora or frozen. What conditions the transformer always is.

    To the `head` belong the layers that bring features of conditioning and encoder to the decoder.
    """

    transformer: str
    decoder: str
    encoder: str
    head: str = "full"


def is_large(model: RefinerModel) -> bool:
    return sum(parameter.numel() for parameter in model.backbone.transformer.parameters()) > LARGE


def chosen_parts(settings: FinetuneSettings, refiner: Refiner) -> Parts:
    """What the settings say, or what suits the base's size and the task where they say nothing."""
    large, there = is_large(refiner.model), refiner.config.lora
    transformer = "lora" if large or there.get("transformer") else "full"
    decoder = "lora" if there.get("decoder") or (large and refiner.task.trains_decoder) else "frozen" if large else "full"
    return Parts(settings.transformer or transformer, settings.decoder or decoder,
                 settings.encoder or ("frozen" if large else "full"), settings.head)


def part_of(model: RefinerModel) -> dict[str, str]:
    """Of each parameter, by name, whether it is of the transformer, the decoder, the encoder, the head or the conditioning."""
    backbone = model.backbone
    places = {"transformer": [backbone.transformer],
              "decoder": [backbone.vae.decoder, getattr(backbone.vae, "post_quant_conv", None)],
              "encoder": [backbone.vae.encoder, getattr(backbone.vae, "quant_conv", None)],
              "head": [model.head, model.injections]}
    known = {id(parameter): part for part, modules in places.items() for module in modules if module is not None
             for parameter in module.parameters()}
    return {name: known.get(id(parameter), "conditioning") for name, parameter in model.named_parameters()}


def _is_trained(name: str, part: str, parts: Parts) -> bool:
    way = getattr(parts, part, "full")
    return way == "full" or (way == "lora" and is_lora(name))


def bfloat16_kept(model: RefinerModel, parts: Parts) -> bool:
    """Whether weights that are not trained are in bfloat16; what is trained will be in float32."""
    return any(model.get_parameter(name).dtype == torch.bfloat16 and not _is_trained(name, part, parts)
               for name, part in part_of(model).items())


def set_trained(model: RefinerModel, parts: Parts) -> dict[str, nn.Parameter]:
    """Let what is trained require gradients, and nothing else; return it by name. It is held in float32, or
    more, from here on.
    """
    trained = {}
    for name, part in part_of(model).items():
        parameter = model.get_parameter(name)
        parameter.requires_grad_(_is_trained(name, part, parts))
        parameter.grad = None
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            trained[name] = parameter
    return trained


@contextmanager
def frozen_in_bfloat16(model: RefinerModel) -> Iterator[None]:
    """Within the context, hold what is frozen in bfloat16, but for what diffusers' classes keep in float32.

    What bfloat16 rounds waits in host memory and comes back, so that a refiner is not saved with rounded weights.
    """
    single = {parameter for module in model.modules() for kept in (getattr(module, "_keep_in_fp32_modules", None) or [])
              for name, parameter in module.named_parameters() if kept in name.split(".")}
    originals: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or parameter in single or parameter.dtype != torch.float32:
            continue
        rounded = parameter.data.bfloat16()
        exact = torch.equal(rounded.float(), parameter.data)
        originals[name] = rounded if exact else parameter.data.cpu()
        parameter.data = rounded
    try:
        yield
    finally:
        for name, original in originals.items():  # by name: FSDP puts other parameters in place
            parameter = model.get_parameter(name)
            parameter.data = original.to(parameter.device).float()
