"""diffusers' video autoencoders as causal decoders, one file a family. Nothing else knows how a class keeps its cache.

Classes are told by name, so that diffusers is imported only by who has an autoencoder of it. Those with an adapter:

| class | a group | where diffusers keeps the cache |
|---|---|---|
| `AutoencoderKLWan`, `AutoencoderKLQwenImage` | 1 latent frame | a list, filled in place |
| `AutoencoderKLCogVideoX` | 2 latent frames, the first group the remainder too | nested dicts, returned |
| `AutoencoderKLMochi` | the clip, or 2 latent frames with `use_framewise_decoding` | nowhere that works |
| `AutoencoderKLMagvit` (EasyAnimate) | 1 latent frame | attributes of its modules |
| `AutoencoderKLKVAEVideo`, `Kandinsky6SRVAE` | 4 latent frames, the first group 1 more | nested dicts, filled in place |

Looked at in diffusers 0.42 and left out, since their `decode` carries no cache from one group to the next:
`AutoencoderKLAllegro` (overlapping tiles, blended), `AutoencoderKLMiniMaxH3` (overlapping chunks, blended),
`AutoencoderKLLTXVideo` and `AutoencoderKLLTX2Video` (all frames at once, causal or not by a flag; temporal tiles are
blended), `AutoencoderKLHunyuanVideo` and `AutoencoderKLHunyuanVideo15` (all frames at once; the mid block attends over
all earlier frames, so what a group needs of the past grows with the clip), `AutoencoderKLCosmos` (all frames at once,
with temporal attention), `AutoencoderVidTok` (all frames at once; its cache serves tiled decoding only),
`AutoencoderKLTemporalDecoder` (not causal), `AutoencoderKLQwenImage21` (takes one latent frame alone), LTX-2's diffusion
decoder (random). What decodes images or sound has no groups; Step-Video's autoencoder is not in diffusers.
"""

from __future__ import annotations

from chopgrad_ns.chopgrad.adapters.cogvideox import CogVideoXDecoder
from chopgrad_ns.chopgrad.adapters.kvae import Kandinsky6SRDecoder, KVAEVideoDecoder
from chopgrad_ns.chopgrad.adapters.magvit import MagvitDecoder
from chopgrad_ns.chopgrad.adapters.mochi import MochiDecoder
from chopgrad_ns.chopgrad.adapters.wan import QwenImageDecoder, WanDecoder
from chopgrad_ns.chopgrad.interface import CausalDecoder

ADAPTERS = {
    "AutoencoderKLWan": WanDecoder, "AutoencoderKLQwenImage": QwenImageDecoder,
    "AutoencoderKLCogVideoX": CogVideoXDecoder, "AutoencoderKLMochi": MochiDecoder, "AutoencoderKLMagvit": MagvitDecoder,
    "AutoencoderKLKVAEVideo": KVAEVideoDecoder, "Kandinsky6SRVAE": Kandinsky6SRDecoder,
}
METHODS = ("groups", "frames_of", "initial_state", "decode_group", "parameters")


def as_causal_decoder(vae) -> CausalDecoder:
    """Wrap a diffusers autoencoder; what has the methods of a `CausalDecoder` is returned as it is.

    Raises:
        TypeError: for a class without an adapter, naming those that have one.
    """
    if all(callable(getattr(vae, name, None)) for name in METHODS):
        return vae
    for cls in type(vae).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](vae)
    raise TypeError(f"{type(vae).__name__} has no adapter; there are adapters for {', '.join(ADAPTERS)}, and any "
                    "other decoder can subclass chopgrad_ns.chopgrad.CausalDecoder (its file interface.py says how).")
