"""Train a small video autoencoder of Wan2.1's architecture: python scripts/train_small_vae.py --videos FOLDER --output vae

For looking at gradients through a decoder that has learned something, where no published weights can be had: those of a
decoder with random weights are not local in time. What it makes in minutes is no match for a published one. A video
whose name contains `--held-out` is not trained on; the latents of its start are written beside the autoencoder, so that

    chopgrad profile --decoder vae --latents vae/latents.safetensors --frames 33 --height 64 --width 96 --skip cost

shows how far losses look back. Given again with another --seed, the command trains the same autoencoder further.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import torch
import tyro
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from chopgrad_ns.chopgrad import Full, as_causal_decoder, pixel_loss
from chopgrad_ns.losses import Weighted

HEIGHT = 96
"""Pixels; videos are scaled down to it."""
CHANNELS = 8


@dataclass
class Options:
    """How much to train."""

    videos: Path
    """folder with .mp4 files"""
    output: Path = Path("outputs/small-vae")
    """folder for the autoencoder, as diffusers saves it"""
    held_out: str = "bikes"
    """part of the name of the video that only judges"""
    minutes: float = 12.0
    """of training"""
    frames: int = 13
    """of a training clip: 1, and 4 for every further latent frame"""
    crop: int = 64
    """pixels, width and height of a training clip"""
    batch: int = 2
    """clips a step"""
    base_dim: int = 16
    """channels of the first level"""
    seed: int = 0
    """of weights and clips"""


def read_video(path: Path, most: int = 300) -> Tensor:
    """Its first frames [T, 3, 96, W] in −1…1, W a multiple of 16."""
    frames = []
    for picture in imageio.imiter(path):
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        width = round(pixels.shape[3] * HEIGHT / pixels.shape[2] / 16) * 16
        frames.append(torch.nn.functional.interpolate(pixels, (HEIGHT, width), mode="bilinear", antialias=True))
        if len(frames) == most:
            break
    return torch.cat(frames)


def draw_clip(videos: list[Tensor], options: Options, generator: torch.Generator) -> Tensor:
    """A part of a video in time and space, [3, T, H, W]."""
    def below(limit: int) -> int:
        return int(torch.randint(max(limit, 1), (1,), generator=generator))

    video = videos[below(len(videos))]
    start, top, left = (below(have - need + 1) for have, need in
                        zip((len(video), *video.shape[2:]), (options.frames, options.crop, options.crop)))
    part = video[start : start + options.frames, :, top : top + options.crop, left : left + options.crop]
    return part.transpose(0, 1)


def train(vae: AutoencoderKLWan, videos: list[Tensor], options: Options) -> None:
    decoder = as_causal_decoder(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(options.seed)
    losses, began, step = Weighted({"l1": 1.0, "ssim": 0.1}), time.monotonic(), 0
    while (share := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 20 * share + 0.05, 2 * (1 - share) + 0.02)
        clips = torch.stack([draw_clip(videos, options, generator) for _ in range(options.batch)])
        latents = vae.encode(clips).latent_dist.mode()
        loss = pixel_loss(latents, clips, decoder, losses, Full()) + 1e-4 * latents.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 25 == 0:
            print(f"step {step}, {share:.0%}: loss {loss.item():.4f}", flush=True)
        if step % 200 == 0:
            vae.save_pretrained(options.output)


@torch.no_grad()
def judge(vae: AutoencoderKLWan, video: Tensor) -> tuple[float, Tensor]:
    """PSNR in dB of 33 frames, 64 × 96 pixels of their middle, and their latents."""
    top, left = (HEIGHT - 64) // 2, (video.shape[3] - 96) // 2
    clip = video[:33, :, top : top + 64, left : left + 96].transpose(0, 1)[None]
    latents = vae.encode(clip).latent_dist.mode()
    error = (vae.decode(latents).sample - clip).square().mean() / 4
    return float(-10 * error.log10()), latents


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    files = sorted(options.videos.glob("*.mp4"))
    held_out = [file for file in files if options.held_out in file.name]
    if not held_out or len(held_out) == len(files):
        raise SystemExit(f"{options.videos} needs an .mp4 with {options.held_out!r} in its name, and others to train on.")
    torch.manual_seed(options.seed)
    if (options.output / "config.json").exists():
        vae = AutoencoderKLWan.from_pretrained(options.output, local_files_only=True)
    else:
        vae = AutoencoderKLWan(base_dim=options.base_dim, z_dim=CHANNELS, num_res_blocks=1, latents_mean=[0.0] * CHANNELS,
                               latents_std=[1.0] * CHANNELS)
    train(vae, [read_video(file) for file in files if file not in held_out], options)
    quality, latents = judge(vae, read_video(held_out[0], 33))
    vae.save_pretrained(options.output)
    save_file({"latents": latents.contiguous()}, options.output / "latents.safetensors")
    print(f"Autoencoder in {options.output}: {quality:.2f} dB on {held_out[0].name}, which it was not trained on")


if __name__ == "__main__":
    main()
