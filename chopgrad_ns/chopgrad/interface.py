"""What a causal video decoder is to the rest of this package.

A causal decoder turns latents into frames one *group* at a time. All that a group needs of the past is a *state*: the
features that its causal convolutions put in front of the present ones. Decoding is therefore a recurrence

    frames_i, state_{i+1} = decode_group(latents_i, state_i)

and everything here (strategies, memory) follows from it.

**Writing an adapter.** Subclass `CausalDecoder` and implement `groups`, `frames_of`, `initial_state`,
`decode_group` and `parameters` (or write a class of its own that has these five); `layers` and `framewise_layers`
are optional. A state is any nesting of tuples whose leaves are tensors, None or strings. `decode_group` must not
change its inputs, nor anything outside, and must not be random (no dropout): it is called more than once for the
same group, and by several threads. A side tensor that it has no use for is a ValueError that names those it has. An
adapter is right if groups decoded one after the other and joined are what the decoder gives for the whole clip, and
if `frames_of` says which frames these are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor, nn

State = Union[tuple, Tensor, str, None]
Side = Mapping[str, Tensor]


class CausalDecoder(ABC):
    """A decoder as a pure function of one group's latents and the state that the group before left."""

    @abstractmethod
    def groups(self, num_latent_frames: int) -> list[slice]:
        """Consecutive slices of latent frames that are decoded together."""

    @abstractmethod
    def frames_of(self, group: slice) -> slice:
        """The output frames that a group of latents becomes."""

    @abstractmethod
    def initial_state(self) -> State:
        """The state before the first group."""

    @abstractmethod
    def decode_group(self, latents: Float[Tensor, "b c tz hz wz"], state: State,
                     side: Side | None = None) -> tuple[Float[Tensor, "b c2 t h w"], State]:
        """Frames of one group (before any final clamp) and the state for the next.

        Args:
            side: tensors handed to this group beside its latents, such as features added to a block's output;
                gradients reach them.
        """

    @abstractmethod
    def parameters(self) -> Iterator[Tensor]:
        """Parameters that decoding uses; those that require grad receive gradients."""

    def layers(self) -> list[nn.Module]:
        """The modules that `Exact(checkpoint_blocks=True)` runs again one at a time; none here, which refuses it.

        Optional. They are modules that a group passes through one after another, none inside another. What they
        share apart from parameters passes through their arguments: tensors, or nestings of lists, dicts and tuples;
        lists and dicts handed over directly they may change. No side tensor may enter strictly inside one; at its
        output it may.
        """
        return []

    def framewise_layers(self) -> list[nn.Module]:
        """Modules that `Exact(checkpoint_blocks=True)` runs a frame at a time: of `layers()`, or inside those.

        Optional. Each takes one tensor [B, C, T, H, W] and makes each frame of its output of the same frame alone, as a
        norm of single pixels does, so that its intermediate results are there for one frame only.
        """
        return []

    def num_frames(self, num_latent_frames: int) -> int:
        """Output frames of a whole clip."""
        return self.frames_of(self.groups(num_latent_frames)[-1]).stop

    def decode(self, latents: Float[Tensor, "b c tz hz wz"],
               sides: Sequence[Side] | None = None) -> Float[Tensor, "b c2 t h w"]:
        """Frames of a whole clip, group by group, before any final clamp; `sides` has what each group gets beside."""
        state, frames = self.initial_state(), []
        for index, group in enumerate(self.groups(latents.shape[2])):
            part, state = self.decode_group(latents[:, :, group], state, sides and sides[index])
            frames.append(part)
        return torch.cat(frames, dim=2)


def map_state(function, state: State) -> State:
    """Apply `function` to every tensor of a state."""
    if isinstance(state, tuple):
        return tuple(map_state(function, part) for part in state)
    return function(state) if isinstance(state, Tensor) else state


def state_tensors(state: State) -> list[Tensor]:
    """The tensors of a state, in a fixed order."""
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in state_tensors(part)]
    return [state] if isinstance(state, Tensor) else []
