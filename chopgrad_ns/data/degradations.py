"""Degradations for video super-resolution: from clean frames to low ones.

The plain kinds are the field's BI and BD. The random kinds follow the order of Real-ESRGAN (Wang et al. 2021:
blur, resize, noise, compression, twice) with a video codec after or in place of JPEG as in RealBasicVSR (Chan et al.
2022). What is drawn holds for the whole clip, and strengths drift slowly from its first frame to its
last: cameras and encoders do not change their mind from frame to frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.fft import next_fast_len
from scipy.special import j1
from torch import Tensor

from chopgrad_ns.data.pixel_formats import converter
from chopgrad_ns.errors import UserError

Range = tuple[float, float]

CODECS = {"libx264": "h264", "mpeg4": "mpeg4", "mpeg2video": "mpeg2video", "mjpeg": "mjpeg"}
"""Encoders, and the decoder of each. Not libx265: PyAV's writes beyond its memory where sides are under 64 px."""
_SINC_RADIUS = 10
_BD_SIGMA, _BD_RADIUS = 1.6, 6


@dataclass(frozen=True)
class Degradation:
    """What `degrade` does; ranges are drawn from evenly, once a clip.

    `kind`: `bicubic` (BI: antialiased bicubic), `blur-down` (BD: Gaussian of σ = 1.6 px, then every `scale`-th pixel,
    which needs a whole `scale`), `first-order` (blur, resize, noise, compression), `second-order` (these twice, the
    second time with blur and noise from the lower half of their ranges). `scale` ≥ 1 may be a fraction. The rest is
    for the two random kinds:
    `blur`, σ in px; `anisotropic`, chance that a blur has two widths and an angle; `sinc`, chance of a sinc filter in
    place of a blur; `final_sinc`, chance of another one before the last compression (second order only), which rings
    as sharpened video does; `noise`, standard deviation at mid grey in 8-bit levels; `poisson`, chance that it is shot
    noise and not Gaussian; `grey_noise`, chance that all channels share it; `codecs`, some of `CODECS`, none for no
    compression; `crf` of H.264, `quantiser` of the others; `drift`, how far a strength moves from the first frame to
    the last, at most, as a part of itself.
    """

    kind: Literal["bicubic", "blur-down", "first-order", "second-order"] = "second-order"
    scale: float = 4.0
    blur: Range = (0.2, 3.0)
    anisotropic: float = 0.4
    sinc: float = 0.1
    final_sinc: float = 0.5
    noise: Range = (1.0, 30.0)
    poisson: float = 0.5
    grey_noise: float = 0.4
    codecs: tuple[str, ...] = ("libx264", "mpeg4", "mpeg2video")
    crf: Range = (18.0, 35.0)
    quantiser: Range = (2.0, 12.0)
    drift: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in ("bicubic", "blur-down", "first-order", "second-order"):
            raise UserError(f"There is no degradation {self.kind!r}; choose bicubic, blur-down, first-order or "
                            "second-order.")
        if not 1 <= self.scale < math.inf or (self.kind == "blur-down" and self.scale != int(self.scale)):
            raise UserError(f"The scale {self.scale:g} does not fit {self.kind}; give 1 or more, and a whole number "
                            "for blur-down.")
        for name in ("blur", "noise", "crf", "quantiser"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise UserError(f"The range {name} is {low:g} … {high:g}; give two numbers from 0 on, the lower "
                                "first.")
        if unknown := [name for name in self.codecs if name not in CODECS or name not in av.codecs_available]:
            raise UserError(f"The video codec {unknown[0]} is not to be had here; choose from "
                            f"{', '.join(name for name in CODECS if name in av.codecs_available)}.")


def degrade(frames: Float[Tensor, "t 3 H W"], settings: Degradation,
            seed: int) -> tuple[Float[Tensor, "t 3 h w"], dict]:
    """Degraded frames in 0…1, exact in 8 bit, of the size `low_size` says, and what was drawn (fit for JSON).

    Two numbers in a list are the values at the first and the last frame. The same seed gives the same frames on every
    device but for rounding; codecs run on the CPU.
    """
    height, width = frames.shape[-2:]
    size = low_size(height, width, settings.scale)
    drawn = {"kind": settings.kind, "scale": settings.scale, "seed": seed}
    if settings.kind == "bicubic":
        low = F.interpolate(frames, size, mode="bicubic", antialias=True)
    elif settings.kind == "blur-down":
        step = int(settings.scale)
        sigma = np.full((len(frames), 1), _BD_SIGMA)
        blurred = filter_frames(frames, gaussian_kernels(sigma, sigma, 0.0, _BD_RADIUS))
        low = blurred[..., ::step, ::step][..., :size[0], :size[1]]
    else:
        order = 1 if settings.kind == "first-order" else 2
        rng, low = np.random.default_rng(seed), frames
        noise = torch.Generator().manual_seed(seed)
        drawn["rounds"] = [_draw_round(rng, settings, number, order) for number in range(order)]
        for number, one in enumerate(drawn["rounds"], 1):
            low = _apply_round(low, one, (height, width), size if number == order else None, noise)
    return (low.clamp(0, 1) * 255).round() / 255, drawn


def low_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width divided by the scale and rounded, at least 1 px."""
    return max(1, round(height / scale)), max(1, round(width / scale))


def _draw_round(rng: np.random.Generator, settings: Degradation, number: int, order: int) -> dict:
    """One round's parameters. Chances and factors that are not in the settings are Real-ESRGAN's, where not said."""

    def between(low_high: Range) -> list[float]:
        low, high = low_high if number == 0 else (low_high[0], sum(low_high) / 2)
        start = rng.uniform(low, high)
        return [start, float(np.clip(start * (1 + rng.uniform(-settings.drift, settings.drift)), low, high))]

    one: dict = {"blur": None}
    if number == 0 or rng.random() < 0.8:
        one["blur"] = _draw_blur(rng, settings, between)
    factor = 1 / settings.scale  # of the clean size
    if order == 2:
        # Real-ESRGAN enlarges up to 1.5 times at first, which takes long at the full size
        keep = 1.0 if number == 0 else factor
        down, up = 0.6 * factor, 1.2 * keep
        factor = rng.choice([rng.uniform(down, keep), keep, rng.uniform(keep, up)], p=[0.7, 0.1, 0.2])
    one["resize"] = {"factor": float(factor), "mode": str(rng.choice(["area", "bilinear", "bicubic"]))}
    one["noise"] = {"kind": "poisson" if rng.random() < settings.poisson else "gaussian",
                    "grey": bool(rng.random() < settings.grey_noise), "levels": between(settings.noise)}
    if number == 1:
        one["last_resize"] = {"mode": str(rng.choice(["area", "bilinear", "bicubic"]))}
        cutoff = rng.uniform(math.pi / 3, math.pi)
        one["sinc"] = [cutoff, cutoff] if rng.random() < settings.final_sinc else None
    one["compression"] = None
    if settings.codecs:
        codec = str(rng.choice(settings.codecs))
        quality = settings.crf if codec == "libx264" else settings.quantiser
        one["compression"] = {"codec": codec, "quality": round(rng.uniform(*quality)), "gop": int(rng.integers(8, 49))}
    return one


def _draw_blur(rng: np.random.Generator, settings: Degradation, between) -> dict:
    if rng.random() < settings.sinc:
        start = rng.uniform(math.pi / 3, math.pi)
        return {"kind": "sinc", "cutoff": [start, start]}
    if rng.random() < settings.anisotropic:
        return {"kind": "anisotropic", "sigma": between(settings.blur), "sigma_across": between(settings.blur),
                "angle": float(rng.uniform(0, math.pi))}
    return {"kind": "isotropic", "sigma": between(settings.blur)}


def _apply_round(frames: Tensor, one: dict, clean: tuple[int, int], last: tuple[int, int] | None,
                 generator: torch.Generator) -> Tensor:
    count = len(frames)
    blur = None if one["blur"] is None else _blur_kernels(one["blur"], count)
    sinc = sinc_kernels(_course(one["sinc"], count), _SINC_RADIUS) if one.get("sinc") else None
    deviation = _course(one["noise"]["levels"], count)[:, 0] / 255
    size = low_size(*clean, 1 / one["resize"]["factor"])
    if last is not None and "last_resize" not in one:
        size = last
    done = []
    for number in range(count):  # a frame at a time stays in the cache
        here = slice(number, number + 1)
        frame = frames[here] if blur is None else filter_frames(frames[here], blur[here])
        frame = _resize(frame, size, one["resize"]["mode"])
        frame = _add_noise(frame, one["noise"], deviation[number], generator)
        if "last_resize" in one:
            frame = _resize(frame, last, one["last_resize"]["mode"])
        done.append(frame if sinc is None else filter_frames(frame, sinc[here]))
    frames = torch.cat(done).clamp(0, 1)
    return frames if one["compression"] is None else compress(frames, **one["compression"])


def _course(ends: list[float], count: int) -> Float[np.ndarray, "t 1"]:
    """The values of a strength at each frame."""
    return np.linspace(*ends, count)[:, None]


def _blur_kernels(blur: dict, count: int) -> Float[np.ndarray, "t k k"]:
    if blur["kind"] == "sinc":
        return sinc_kernels(_course(blur["cutoff"], count), _SINC_RADIUS)
    along = _course(blur["sigma"], count)
    across = _course(blur.get("sigma_across", blur["sigma"]), count)
    radius = max(1, math.ceil(3 * max(along.max(), across.max())))
    return gaussian_kernels(along, across, blur.get("angle", 0.0), radius)


def gaussian_kernels(along: Float[np.ndarray, "t 1"], across: Float[np.ndarray, "t 1"], angle: float,
                     radius: int) -> Float[np.ndarray, "t k k"]:
    """Gaussians of σ `along` an axis that is turned by `angle` from x (radians, towards y) and `across` it; sum 1."""
    y, x = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    along, across = (np.maximum(sigma, 1e-3)[..., None] for sigma in (along, across))  # σ = 0 is no blur
    kernels = np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def sinc_kernels(cutoff: Float[np.ndarray, "t 1"], radius: int) -> Float[np.ndarray, "t k k"]:
    """Circular low-pass filters, ω/(2πr) · J₁(ωr), `cutoff` ω in radians a pixel (as Real-ESRGAN's sinc); sum 1."""
    y, x = np.mgrid[-radius:radius + 1, -radius:radius + 1]
    distance, cutoff = np.hypot(x, y), cutoff[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        kernels = np.where(distance > 0, cutoff * j1(cutoff * distance) / (2 * math.pi * distance),
                           cutoff ** 2 / (4 * math.pi))
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def filter_frames(frames: Float[Tensor, "t c h w"], kernels: Float[np.ndarray, "t k k"]) -> Float[Tensor, "t c h w"]:
    """Filter each frame with its kernel, mirrored at the border (as scipy.ndimage's `mirror`); point-symmetric kernels.

    By the Fourier transform: 21×21 px kernels are too slow directly.
    """
    height, width = frames.shape[-2:]
    radius = kernels.shape[-1] // 2
    reach = min(radius, height - 1, width - 1)  # torch mirrors less than a whole side
    padded = F.pad(frames, (reach,) * 4, mode="reflect")
    if reach < radius:
        padded = F.pad(padded, (radius - reach,) * 4, mode="replicate")
    size = [next_fast_len(length, real=True) for length in padded.shape[-2:]]
    weights = torch.as_tensor(kernels, dtype=frames.dtype, device=frames.device)
    filtered = torch.empty_like(frames)
    for number, (frame, kernel) in enumerate(zip(padded, weights, strict=True)):
        spectrum = torch.fft.rfft2(frame, s=size) * torch.fft.rfft2(kernel, s=size)
        filtered[number] = torch.fft.irfft2(spectrum, s=size)[:, 2 * radius:2 * radius + height,
                                                              2 * radius:2 * radius + width]
    return filtered


def _resize(frames: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Bilinear and bicubic without antialiasing, as most scalers and Real-ESRGAN have it; area averages."""
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode=mode).clamp(0, 1)


def _add_noise(frames: Tensor, noise: dict, deviation: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise, or shot noise of as many photons as give the same deviation at mid grey.

    Noise is drawn on the CPU, so that every device gets the same.
    """
    base = frames.cpu().float()
    if noise["grey"]:
        base = (base * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    if noise["kind"] == "gaussian":
        added = torch.randn(base.shape, generator=generator) * deviation
    else:
        photons = 0.5 / max(deviation, 1e-4) ** 2
        base = base.clamp(0, 1)
        added = torch.poisson(base * photons, generator=generator) / photons - base
    return frames + added.to(frames)


def compress(frames: Float[Tensor, "t 3 h w"], codec: str, quality: int, gop: int = 250) -> Float[Tensor, "t 3 h w"]:
    """Encode and decode in memory, in 8 bit with halved colour (4:2:0).

    `quality` is the constant rate factor of libx264 (0…51), the fixed quantiser of the others (1…31); higher is worse.
    `gop` is the most frames from one key frame to the next.
    """
    height, width = frames.shape[-2:]
    # Codecs want even sides, and some no picture smaller than two of their blocks
    padded = F.pad(frames, (0, max(32 - width, width % 2), 0, max(32 - height, height % 2)), mode="replicate")
    encoder = _encoder(codec, quality, gop, *padded.shape[-2:])
    packets, yuv, rgb = [], converter(encoder.pix_fmt), converter("rgb24")
    for number, picture in enumerate(padded.detach()):
        levels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        frame = yuv(av.VideoFrame.from_ndarray(levels, format="rgb24"))
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(CODECS[codec], "r")
    decoded = [rgb(frame).to_ndarray() for packet in [*packets, None] for frame in decoder.decode(packet)]
    if len(decoded) != len(frames):
        raise RuntimeError(f"{codec} gave {len(decoded)} frames for {len(frames)}")
    shown = torch.from_numpy(np.stack(decoded)[:, :height, :width]).permute(0, 3, 1, 2).contiguous()
    return shown.to(frames) / 255


def _encoder(codec: str, quality: int, gop: int, height: int, width: int) -> av.VideoCodecContext:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.gop_size, encoder.thread_count = gop, 1
    if codec == "libx264":
        # x264's macroblock tree reads memory that it has not set: the same frames would not always give the same file
        encoder.options = {"crf": str(quality), "preset": "veryfast", "mbtree": "0"}
    else:
        encoder.options = {"qmin": str(quality), "qmax": str(quality)}
    return encoder
