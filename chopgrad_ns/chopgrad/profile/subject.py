"""What is measured: a decoder, latents, and a target made up for them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad.adapters import as_causal_decoder
from chopgrad_ns.chopgrad.interface import CausalDecoder
from chopgrad_ns.errors import UserError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def _wan21(base: int | None) -> tuple[str, dict]:
    return "AutoencoderKLWan", {"base_dim": base or 96}


def _wan22(base: int | None) -> tuple[str, dict]:
    return "AutoencoderKLWan", {
        "base_dim": base or 160, "decoder_base_dim": base or 256, "z_dim": 48, "is_residual": True, "patch_size": 2,
        "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48}


def _cogvideox(base: int | None) -> tuple[str, dict]:
    base = base or 128
    return "AutoencoderKLCogVideoX", {
        "block_out_channels": (base, 2 * base, 2 * base, 4 * base), "norm_num_groups": math.gcd(base, 32),
        "down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}


def _mochi(base: int | None) -> tuple[str, dict]:
    base = base or 128
    if base % 32:
        raise UserError(f"--base-dim is {base}, but Mochi's norms have 32 groups, so give a multiple of 32.")
    return "AutoencoderKLMochi", {"decoder_block_out_channels": (base, 2 * base, 4 * base, 6 * base)}


ARCHITECTURES = {"wan2.1": _wan21, "wan2.2": _wan22, "cogvideox": _cogvideox, "mochi": _mochi}
"""Class and configuration of each decoder, as published where no base width is given."""


def load_decoder(name: str, base_dim: int | None, dtype: str, device: torch.device) -> CausalDecoder:
    """A decoder of an architecture with random weights, or pretrained from a local diffusers folder.

    Mochi decodes group by group (`use_framewise_decoding`); a clip would be one group otherwise.

    Args:
        name: a key of `ARCHITECTURES`, or a folder with a diffusers autoencoder, or with a pipeline that has one.
        base_dim: width of the random decoder's first level; as published where None.

    Raises:
        UserError: for an unknown name, or a folder that holds no causal autoencoder.
    """
    if name in ARCHITECTURES:
        vae = _random(*ARCHITECTURES[name](base_dim), device)
    elif base_dim is not None:
        raise UserError(f"--base-dim sets the width of random decoders ({', '.join(ARCHITECTURES)}), so leave it out for "
                        f"{name}.")
    else:
        vae = _pretrained(name)
    vae.encoder = None  # its weights would only take memory
    torch.nn.Module.to(vae, device, DTYPES[dtype])  # diffusers' own warns of layers to keep in float32; here are none
    vae.eval().requires_grad_(False)
    if type(vae).__name__ == "AutoencoderKLMochi":
        vae.use_framewise_decoding = True
    return as_causal_decoder(vae)


def _random(class_name: str, config: dict, device: torch.device) -> torch.nn.Module:
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        return getattr(diffusers, class_name)(**config)


def _pretrained(name: str) -> torch.nn.Module:
    import diffusers

    folder = Path(name)
    if not (folder / "config.json").is_file():
        folder = folder / "vae"
    if not (folder / "config.json").is_file():
        raise UserError(f"There is no decoder {name!r}; give one of {', '.join(ARCHITECTURES)}, or a local folder with a "
                        "diffusers autoencoder (config.json and weights).")
    try:
        class_name = json.loads((folder / "config.json").read_text())["_class_name"]
        vae = getattr(diffusers, class_name).from_pretrained(folder, local_files_only=True)
        as_causal_decoder(vae)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder} holds no causal autoencoder that can be loaded ({_one_line(error)}); give a folder that "
                        "a video autoencoder of diffusers was saved to.") from error
    return vae


@dataclass
class Subject:
    """A decoder with latents for the longest clip, and what is known of both."""

    decoder: CausalDecoder
    latents: Float[Tensor, "1 c tz hz wz"]
    height: int
    width: int

    def clip(self, frames: int) -> tuple[Float[Tensor, "1 c tz2 hz wz"], Float[Tensor, "1 3 t h w"]]:
        """Latents (a leaf that requires grad) of the shortest clip with at least so many frames, and a random target.

        The target is uniform in −1…1, the same for every method.
        """
        count = latent_frames_for(self.decoder, frames)
        latents = self.latents[:, :, :count].detach().clone().requires_grad_()
        generator = torch.Generator(latents.device).manual_seed(1)
        shape = (1, 3, self.decoder.num_frames(count), self.height, self.width)
        target = torch.rand(shape, generator=generator, device=latents.device, dtype=latents.dtype)
        return latents, target.mul_(2).sub_(1)


def make_subject(decoder: CausalDecoder, height: int, width: int, frames: int, latents_file: Path | None) -> Subject:
    """Latents for `frames` frames of height × width pixels: normally distributed, or the start and middle of a file's.

    Raises:
        UserError: where the size does not suit the decoder, or the file does not hold enough.
    """
    example = next(iter(decoder.parameters()))
    channels = _latent_channels(decoder)
    scale = _spatial_scale(decoder, channels)
    if min(height, width, frames) < 1 or height % scale or width % scale:
        raise UserError(f"A clip of {frames} frames, {width}×{height} px, cannot be decoded; give 1 frame or more, and "
                        f"--height and --width that are multiples of {scale}.")
    shape = (1, channels, latent_frames_for(decoder, frames), height // scale, width // scale)
    if latents_file is None:
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    else:
        latents = _crop(read_latents(latents_file), shape, latents_file)
    return Subject(decoder, latents.to(example.device, example.dtype), height, width)


def latent_frames_for(decoder: CausalDecoder, frames: int) -> int:
    """The fewest latent frames that give at least so many frames."""
    count = 1
    while decoder.num_frames(count) < frames:
        count += 1
    return count


def _latent_channels(decoder) -> int:
    config = decoder.vae.config
    return next(config[key] for key in ("latent_channels", "z_dim", "z_channels") if key in config)


def _spatial_scale(decoder: CausalDecoder, channels: int) -> int:
    example = next(iter(decoder.parameters()))
    with torch.no_grad():
        frames, _ = decoder.decode_group(example.new_zeros(1, channels, 1, 4, 4), decoder.initial_state())
    return frames.shape[-1] // 4


def read_latents(path: Path) -> Float[Tensor, "1 c tz hz wz"]:
    """The one tensor in a .safetensors file, or in a file of torch.save, which is read without unpickling objects.

    Raises:
        UserError: for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the two readers
        raise UserError(f"{path} cannot be read as latents ({_one_line(error)}); give a .safetensors or .pth file with one "
                        "tensor.") from error
    values = list(content.values()) if isinstance(content, dict) else [content]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 5 or len(values[0]) != 1:
        raise UserError(f"{path} does not hold one tensor of shape [1, C, T, h, w], so it cannot be taken for a clip's "
                        "latents.")
    return values[0].float()


def _crop(latents: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    """The first frames, and of each the middle."""
    if latents.shape[1] != shape[1]:
        raise UserError(f"The latents in {path} have {latents.shape[1]} channels, but the decoder takes {shape[1]}; give "
                        "latents of this decoder's own encoder.")
    if any(have < need for have, need in zip(latents.shape[2:], shape[2:])):
        raise UserError(f"The latents in {path} are {tuple(latents.shape[2:])} in time, height and width, but the clip "
                        f"needs {tuple(shape[2:])}; give fewer --frames or a smaller --height and --width.")
    top, left = ((have - need) // 2 for have, need in zip(latents.shape[3:], shape[3:]))
    return latents[:, :, : shape[2], top : top + shape[3], left : left + shape[4]]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
