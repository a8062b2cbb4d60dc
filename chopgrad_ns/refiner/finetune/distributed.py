"""Several processes as one: shares of a batch, averaged gradients, and the transformer's weights in parts (FSDP)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

if TYPE_CHECKING:
    from chopgrad_ns.refiner.model import RefinerModel

BUCKET_BYTES = 2**26
"""Gradients are averaged in runs of about so many bytes."""


def accelerator() -> Accelerator:
    """Of this process, among those that `accelerate launch` or `torchrun` started; alone without them.

    Precision is left to `torch.autocast`: accelerate fixes its own for the whole process, which may train more than once.
    """
    return Accelerator(cpu=not torch.cuda.is_available())


def together(here: Accelerator, fine: bool) -> bool:
    """Whether all processes are fine: what one of them leaves out, all must, or the others would wait for it."""
    if here.num_processes == 1:
        return fine
    return bool(here.gather(torch.tensor([fine], device=here.device)).all())


def largest(here: Accelerator, value: float) -> float:
    """The largest of all processes' values."""
    if here.num_processes == 1:
        return value
    return float(here.gather(torch.tensor([value], dtype=torch.float64, device=here.device)).max())


def average_gradients(here: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes; a parameter without one in some process counts as zero there.

    Not by DistributedDataParallel: its buckets are laid out by a forward through its wrapper, whereas a pixel loss calls
    the decoder, group by group and again in backward, outside any module's forward. Parts of a weight are averaged by
    FSDP itself.
    """
    if here.num_processes == 1:
        return
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not parameters:
        return
    there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32, device=here.device)
    anywhere = here.reduce(there, "sum").tolist()
    run: list[nn.Parameter] = []
    for parameter in (parameter for parameter, count in zip(parameters, anywhere) if count):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if run and (run[0].dtype != parameter.dtype or sum(each.grad.nbytes for each in run) >= BUCKET_BYTES):
            _average(here, run)
            run = []
        run.append(parameter)
    _average(here, run)


def _average(here: Accelerator, parameters: list[nn.Parameter]) -> None:
    if not parameters:
        return
    mean = here.reduce(torch.cat([parameter.grad.flatten() for parameter in parameters]), "mean")
    for parameter, part in zip(parameters, mean.split([parameter.numel() for parameter in parameters])):
        parameter.grad.copy_(part.view_as(parameter))


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
    """Scale all gradients so that their norm is at most `largest`; return what it was. Parts of weights count whole."""
    given = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [kind for kind in by_kind(given) if kind]
    norms = [get_total_norm([parameter.grad for parameter in kind]) for kind in kinds]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    if not norms:
        return torch.zeros(())
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds:
        clip_grads_with_norm_(kind, largest, norm)
    return norm


def by_kind(parameters: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Whole weights and those of which each process holds a part: one operation cannot take both."""
    return ([parameter for parameter in parameters if not isinstance(parameter, DTensor)],
            [parameter for parameter in parameters if isinstance(parameter, DTensor)])


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which processes hold parts, put together; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def bytes_here(tensor: Tensor) -> int:
    """What this process holds of a tensor."""
    return tensor.to_local().nbytes if isinstance(tensor, DTensor) else tensor.nbytes


def put(into: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part."""
    if isinstance(into, DTensor):
        value = distribute_tensor(value.to(into.device), into.device_mesh, into.placements)
    into.copy_(value)


class ShardedTransformer:
    """The transformer of a model with its weights in parts, a block at a time, until `join`; the rest is in all processes.

    What follows from the weights in training (gradients, averages, AdamW's means) is in parts too. Each process holds all
    weights before, and after `join`.

    By torch's `fully_shard` directly: accelerate's plugin shards a whole model, decoder included, whose weights a pixel
    loss needs outside any forward, and does not do it on the CPU (its distributed type there is never FSDP).
    """

    def __init__(self, model: RefinerModel, here: Accelerator):
        self.model = model
        transformer = model.backbone.transformer
        # A copy without weights, to take the place of the sharded one in the end: `fully_shard` cannot be undone.
        memo = {id(module): module for module in (model, model.backbone)}
        memo |= {id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
                 for parameter in transformer.parameters()}
        self.empty = copy.deepcopy(transformer, memo)
        for parameter in transformer.parameters():
            parameter.data = parameter.data.contiguous()  # others cannot be sharded; convolutions may have channels last
        mesh = init_device_mesh(here.device.type, (here.num_processes,))
        for blocks in (child for child in transformer.children() if isinstance(child, nn.ModuleList)):
            for block in blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(transformer, mesh=mesh)

    def join(self) -> None:
        """Put the weights together again, in every process."""
        for name, parameter in self.model.backbone.transformer.named_parameters():
            owner, _, last = name.rpartition(".")
            joined = nn.Parameter(whole(parameter.data), parameter.requires_grad)
            setattr(self.empty.get_submodule(owner), last, joined)
        self.model.backbone.transformer = self.empty
