"""A clip's loss tile by tile in space, each with a graph and a gradient of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from chopgrad_ns.chopgrad.block_checkpoint import layers_of
from chopgrad_ns.chopgrad.clip_loss import ClipLoss, naming
from chopgrad_ns.chopgrad.groups import Inputs
from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State
from chopgrad_ns.chopgrad.strategies import Backprop, SpatialTiles
from chopgrad_ns.chopgrad.sweeps import ReadyLoss, needs_grad, propagate

Region = tuple[slice, slice]
"""Rows and columns, in latent pixels."""


@dataclass(frozen=True)
class Tile:
    """Where a tile's loss is taken, and what is decoded for it: the same with its halo."""

    own: Region
    read: Region

    def __str__(self) -> str:
        rows, columns = self.own
        return f"tile of latent rows {rows.start}…{rows.stop - 1}, columns {columns.start}…{columns.stop - 1}"


def tiles_of(height: int, width: int, tiles: SpatialTiles) -> list[Tile]:
    """Tiles that cover a picture of latents once."""
    return [Tile((row, column), (_widened(row, tiles.halo, height), _widened(column, tiles.halo, width)))
            for row in _parts(height, tiles.height) for column in _parts(width, tiles.width)]


def _parts(length: int, largest: int) -> list[slice]:
    count = -(-length // largest)
    edges = [length * k // count for k in range(count + 1)]
    return [slice(*pair) for pair in zip(edges, edges[1:])]


def _widened(part: slice, halo: int, length: int) -> slice:
    return slice(max(part.start - halo, 0), min(part.stop + halo, length))


def crop(tensor: Shaped[Tensor, "*rest h w"], region: Region, size: tuple[int, int],
         what: str) -> Shaped[Tensor, "*rest h2 w2"]:
    """The view of a tensor, of whatever resolution, that lies over a region of latents of size (rows, columns).

    Raises:
        ValueError: where the region's edges fall between the tensor's pixels, calling the tensor `what`.
    """
    parts = []
    for part, whole, length in zip(region, size, tensor.shape[-2:]):
        if part.start * length % whole or part.stop * length % whole:
            raise ValueError(f"{what} has shape {tuple(tensor.shape)}, which cannot be cut where latents of {size[0]} × "
                             f"{size[1]} are: rows {region[0].start}…{region[0].stop}, columns "
                             f"{region[1].start}…{region[1].stop}; give other tiles")
        parts.append(slice(part.start * length // whole, part.stop * length // whole))
    return tensor[..., parts[0], parts[1]]


class _WithoutHalo:
    """A decoder of one tile's latents whose frames leave the halo out."""

    def __init__(self, decoder: CausalDecoder, tile: Tile):
        self.decoder = decoder
        self.groups, self.frames_of, self.initial_state = decoder.groups, decoder.frames_of, decoder.initial_state
        self.parameters, self.layers = decoder.parameters, lambda: layers_of(decoder)
        self.inner = tuple(slice(own.start - read.start, own.stop - read.start)
                           for own, read in zip(tile.own, tile.read))

    def decode_group(self, latents: Tensor, state: State, side: Side | None = None) -> tuple[Tensor, State]:
        frames, state = self.decoder.decode_group(latents, state, side)
        return crop(frames, self.inner, tuple(latents.shape[-2:]), "a decoded frame"), state


def _clip_of(tile: Tile, clip: ClipLoss, size: tuple[int, int], sides: list[Side] | None) -> ClipLoss:
    target = clip.target
    if callable(target):
        own_target = lambda span: crop(target(span), tile.own, size, "the target")  # noqa: E731
    else:
        own_target = crop(target, tile.own, size, "the target")
    return replace(clip, decoder=_WithoutHalo(clip.decoder, tile), target=own_target, side=sides)


def _crops(clip: ClipLoss, latents: Tensor, tile: Tile, size: tuple[int, int], inputs: Inputs):
    """Leaves over a tile: latents; of the side tensors, those that get gradients; and all side tensors by group."""
    here = crop(latents.detach(), tile.read, size, "latents").requires_grad_(latents.requires_grad)
    if clip.side is None:
        return here, [], None
    sides = [{name: crop(value.detach(), tile.read, size, f"the side tensor for {name}") for name, value in group.items()}
             for group in clip.side]
    leaves = [sides[index][name].requires_grad_() for index, names in enumerate(inputs.names) for name in names]
    return here, leaves, sides


def _losses(clip: ClipLoss, strategy: Backprop, latents: Tensor,
            inputs: Inputs) -> Iterator[tuple[Tile, Tensor, Tensor, list[Tensor]]]:
    """Each tile with its share of the clip's loss, and the leaves that the share depends on."""
    size = tuple(latents.shape[-2:])
    for tile in tiles_of(*size, strategy.tiles):
        with naming(str(tile)):
            here, leaves, sides = _crops(clip, latents, tile, size, inputs)
            rows, columns = tile.own
            weight = (rows.stop - rows.start) * (columns.stop - columns.start) / (size[0] * size[1])
            loss = weight * propagate(_clip_of(tile, clip, size, sides), strategy, here)
        yield tile, loss, here, leaves


class TiledLoss(ReadyLoss):
    """Tiles one after another; gradients are ready when the loss is."""

    @staticmethod
    def forward(ctx, clip: ClipLoss, strategy: Backprop, inputs: Inputs, latents: Tensor, *tensors: Tensor):
        size = tuple(latents.shape[-2:])
        parameters = tensors[len(tensors) - inputs.parameters :]
        local = [torch.zeros_like(t) for t in (latents, *tensors[: len(tensors) - inputs.parameters])]
        of_parameters: list[Tensor | None] = [None] * inputs.parameters
        total = 0.0
        with torch.enable_grad():
            for tile, loss, here, leaves in _losses(clip, strategy, latents, inputs):
                sources = [here] * latents.requires_grad + leaves
                with naming(str(tile)):  # of what Exact calls again
                    found = torch.autograd.grad(loss, [*sources, *parameters], allow_unused=True)
                total = total + loss.detach()
                with torch.no_grad():
                    for into, value in zip(local[not latents.requires_grad :], found):
                        if value is not None:
                            crop(into, tile.read, size, "a gradient").add_(value)
                for k, value in enumerate(found[len(sources) :]):
                    if value is not None:
                        of_parameters[k] = value if of_parameters[k] is None else of_parameters[k] + value
                del loss, found  # the next tile is decoded with this one's memory
        TiledLoss.keep(ctx, [*local, *of_parameters])
        return total


def tiled_loss(clip: ClipLoss, strategy: Backprop, latents: Float[Tensor, "b c tz hz wz"]) -> Float[Tensor, ""]:
    """Loss of a clip tile by tile, with the gradient of a strategy cut at the tiles' halos."""
    inputs, tensors = Inputs.of(clip)
    if needs_grad(latents, *tensors):
        return TiledLoss.apply(clip, strategy, inputs, latents, *tensors)
    return sum(loss for _, loss, _, _ in _losses(clip, strategy, latents, inputs))
