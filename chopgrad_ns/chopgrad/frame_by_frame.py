"""Decoding without the cache: each latent frame as if it were a clip of its own."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State


class FrameByFrame(CausalDecoder):
    """Another causal decoder's first group, again and again: latent frame k is decoded as if it were the first.

    That is how a pixel loss is trained with where a whole clip does not fit (DOVE, arXiv 2505.16239, which encodes each frame
    alone too): nothing is kept between latents, so every strategy has the same gradient. But it is not what the decoder makes
    of a clip: there a latent stands for several frames, and the loss never sees how one goes on from those before.

    Output frames are numbered as they come: those of latent k are k · n … k · n + n − 1, where a latent alone gives n
    (1 for all but Mochi). A group's side tensors are those of a first group.
    """

    def __init__(self, inner: CausalDecoder):
        self.inner = inner
        self.frames_each = inner.num_frames(1)

    def groups(self, num_latent_frames: int) -> list[slice]:
        return [slice(k, k + 1) for k in range(num_latent_frames)]

    def frames_of(self, group: slice) -> slice:
        return slice(group.start * self.frames_each, group.stop * self.frames_each)

    def initial_state(self) -> State:
        return None

    def parameters(self) -> Iterator[Tensor]:
        return self.inner.parameters()

    def layers(self):
        return self.inner.layers()

    def framewise_layers(self):
        return self.inner.framewise_layers()

    def decode_group(self, latents: Float[Tensor, "b c 1 hz wz"], state: State,
                     side: Side | None = None) -> tuple[Float[Tensor, "b c2 n h w"], State]:
        frames, _ = self.inner.decode_group(latents, self.inner.initial_state(), side)
        return frames, None
