"""Low-rank changes of weights (LoRA, Hu et al. 2021): of the transformer through peft, of the decoder in weight space.

peft's layers for convolutions run a second convolution beside the first, which knows nothing of the cache that a causal one
is given; a parametrised weight leaves the convolution as it is, and so its cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.utils import parametrize

from chopgrad_ns.errors import UserError

if TYPE_CHECKING:
    from chopgrad_ns.refiner.model import RefinerModel

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
"""Ends of the names of the transformer's layers that are changed: attention and feed-forward, as Wan's and CogVideoX's
blocks in diffusers call them."""
PLACES = ("transformer", "decoder")


class LowRank(nn.Module):
    """A convolution's weight w as w + (alpha / rank) · B · A, in float32 at least; B starts at zero.

    Only the sum is rounded where autocast computes in bfloat16.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        outputs, inputs = len(weight), weight[0].numel()
        rank_here = min(rank, outputs, inputs)
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank_here, inputs, device=weight.device) / inputs**0.5)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank_here, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        change = self.scale * (self.lora_B @ self.lora_A).view(weight.shape)
        return weight.to(torch.promote_types(weight.dtype, torch.float32)) + change


def is_lora(name: str) -> bool:
    """Whether a parameter of this name is of a low-rank change."""
    return ".lora_" in name


def add_lora(model: RefinerModel, spec: Mapping[str, Mapping | None]) -> None:
    """Add low-rank changes that change nothing yet, drawn alike every time.

    Args:
        spec: for "transformer" and "decoder" `{"rank": …, "alpha": …}`, or None for none.

    Raises:
        UserError: for a rank below 1, or a part that has one already.
    """
    unknown = set(spec) - set(PLACES)
    if unknown:
        raise UserError(f"There is no LoRA of {sorted(unknown)[0]!r}; give one of {' and '.join(PLACES)}.")
    for place, wanted in spec.items():
        if not wanted:
            continue
        rank, alpha = wanted["rank"], wanted["alpha"]
        if not isinstance(rank, int) or rank < 1:
            raise UserError(f"The rank of LoRA is {rank}; give a whole number of 1 or more.")
        if has_lora(model, place):
            raise UserError(f"The {place} has LoRA already; merge that, or train it further with the same rank and alpha.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if place == "transformer":
                config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, init_lora_weights=True)
                model.backbone.transformer.add_adapter(config)
            else:
                for layer in _convolutions(model):
                    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha), unsafe=True)


def has_lora(model: RefinerModel, place: str) -> bool:
    module = model.backbone.transformer if place == "transformer" else model.backbone.vae.decoder
    return any(is_lora(name) for name, _ in module.named_parameters())


def merge_lora(model: RefinerModel, place: str) -> None:
    """Add a part's low-rank changes to its weights for good; names are those of the plain classes again."""
    if place == "transformer":
        model.backbone.transformer.fuse_lora()
        model.backbone.transformer.unload_lora()
        return
    for layer in _convolutions(model):
        if parametrize.is_parametrized(layer, "weight"):
            dtype = layer.parametrizations.weight.original.dtype
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            layer.weight.data = layer.weight.data.to(dtype)


def _convolutions(model: RefinerModel) -> list[nn.Module]:
    return [layer for layer in model.backbone.vae.decoder.modules() if isinstance(layer, (nn.Conv2d, nn.Conv3d))]


def plain_name(name: str) -> str:
    """The name of a weight without LoRA: peft moves what it changes into `base_layer`, a parametrisation into `original`."""
    return name.replace(".base_layer.", ".").replace(".parametrizations.weight.original", ".weight")
