"""How often in time and space a decoder's blocks have features, and of how many channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from chopgrad_ns.chopgrad import CausalDecoder


class Rate(NamedTuple):
    """Features of so many channels, one step for so many frames, one place for so many pixels in each direction."""

    channels: int
    frames: int
    pixels: int


def block_rates(decoder: CausalDecoder, vae: nn.Module) -> dict[str, Rate]:
    """The rates of the blocks that side inputs can be added to, found by decoding a few latents.

    Of blocks that run one after another at the same rate in time and space only the first is among them.
    """
    seen: dict[str, torch.Size] = {}

    def note(name: str):
        def hook(_module, _inputs, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).shape

        return hook

    handles = [vae.decoder.get_submodule(name).register_forward_hook(note(name)) for name in decoder.blocks]
    weight = next(vae.parameters())
    count = 2 * max(group.stop - group.start for group in decoder.groups(4))
    latents = weight.new_zeros(1, getattr(vae.config, "z_dim", None) or vae.config.latent_channels, count, 2, 2)
    state = decoder.initial_state()
    try:
        with torch.no_grad():
            for group in decoder.groups(count):
                frames, state = decoder.decode_group(latents[:, :, group], state)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Rate] = {}
    for name in decoder.blocks:  # in the order in which they run; shapes are the last group's
        _, channels, steps, height, _ = seen[name]
        rate = Rate(channels, frames.shape[2] // steps, frames.shape[3] // height)
        if all((one.frames, one.pixels) != (rate.frames, rate.pixels) for one in found.values()):
            found[name] = rate
    return found


def steps_of(frames: slice, frames_each: int) -> slice:
    """The steps of features that go with a group's frames, of which step s > 0 ends with frame s · frames_each."""
    return slice(-(-frames.start // frames_each), (frames.stop - 1) // frames_each + 1)
