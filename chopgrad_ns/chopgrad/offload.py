"""The states between groups while they wait for their backward: where the latents are, or in host memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.interface import State, map_state, state_tensors

PIECE = 2**24
"""Bytes of a pinned buffer: PyTorch's pool of pinned memory rounds sizes up to powers of two, so that buffers of
whole states would waste up to half of it. Freed pieces are reused by the next state, clip or training step."""
IN_FLIGHT = 2
"""States on their way to the host at once; each is held on the device until it has arrived."""


class States:
    """States by the index of the group that they come before.

    Offloaded from a CUDA device, they are copied on a stream of their own beside the decoding; from other devices,
    plainly. In host memory that is as much pinned memory as there are states.
    """

    def __init__(self, offload: str, device: torch.device):
        self._host = offload == "cpu" and device.type != "cpu"
        self._device = device
        self._kept: dict[int, State | _Parked] = {}
        self._transfers = _Transfers(device) if self._host and device.type == "cuda" else None
        self._coming: dict[int, tuple[State, torch.cuda.Event]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, index: int) -> bool:
        return index in self._kept

    def last_before(self, index: int) -> int:
        return max(j for j in self._kept if j < index)

    def put(self, index: int, state: State) -> None:
        if self._transfers:
            self._kept[index] = self._transfers.to_host(state)
        else:
            self._kept[index] = map_state(Tensor.cpu, state) if self._host else state

    def settle(self) -> None:
        """Wait until what is on its way to the host has arrived, so that nothing of it is left on the device."""
        if self._transfers:
            self._transfers.settle()

    def prefetch(self, index: int) -> None:
        """Begin to bring a state back, if there is such a state, beside what is computed from here on."""
        if self._transfers and index in self._kept and index not in self._coming:
            self._coming[index] = self._transfers.to_device(self._kept[index])

    def get(self, index: int) -> State:
        """A state on its device; it is kept."""
        if not self._transfers:
            kept = self._kept[index]
            return map_state(lambda tensor: tensor.to(self._device), kept) if self._host else kept
        self.prefetch(index)
        state, arrived = self._coming.pop(index)
        torch.cuda.current_stream(self._device).wait_event(arrived)
        return state

    def take(self, index: int) -> State:
        """A state on its device; it is kept no longer."""
        state = self.get(index)
        del self._kept[index]
        return state


@dataclass
class _Parked:
    """A state in pinned memory: its tensors' layout as meta tensors, and their elements in pieces."""

    layout: State
    pieces: list[tuple[Tensor, ...]]


class _Transfers:
    """Copies between a CUDA device and pinned memory, on a stream of their own."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.leaving: deque[tuple[torch.cuda.Event, State]] = deque()

    def to_host(self, state: State) -> _Parked:
        state = map_state(_dense, state)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which may not have computed it yet
        with torch.cuda.stream(self.stream):
            pieces = [tuple(_pinned_copy(piece) for piece in _pieces(tensor)) for tensor in state_tensors(state)]
        self.leaving.append((self.stream.record_event(), state))
        while len(self.leaving) > IN_FLIGHT:
            self.leaving.popleft()[0].synchronize()
        return _Parked(map_state(lambda tensor: _empty_like(tensor, "meta"), state), pieces)

    def settle(self) -> None:
        while self.leaving:
            self.leaving.popleft()[0].synchronize()

    def to_device(self, parked: _Parked) -> tuple[State, torch.cuda.Event]:
        """The state, and the event after which it may be read."""
        self.settle()
        state = map_state(lambda tensor: _empty_like(tensor, self.device), parked.layout)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # whose work may still use that memory
        with torch.cuda.stream(self.stream):
            for tensor, pieces in zip(state_tensors(state), parked.pieces):
                for into, piece in zip(_pieces(tensor), pieces):
                    into.copy_(piece, non_blocking=True)
                tensor.record_stream(self.stream)  # or, dropped unread, it could be given out while it is written
        return state, self.stream.record_event()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor without gaps in memory, its order of dimensions kept where that is a usual one."""
    usual = tensor.is_contiguous() or (tensor.ndim == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d))
    return tensor if usual else tensor.contiguous()


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of a dense tensor's elements as they lie in memory, at most `PIECE` bytes each."""
    return tensor.as_strided((tensor.numel(),), (1,)).split(max(PIECE // tensor.element_size(), 1))


def _pinned_copy(piece: Tensor) -> Tensor:
    return torch.empty(piece.shape, dtype=piece.dtype, pin_memory=True).copy_(piece, non_blocking=True)


def _empty_like(tensor: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
