"""A small video autoencoder of Wan2.1's architecture, for methods that take one as given.

The embedded refiner is trained as a whole, and its decoder starts as one that decodes nothing. A loss of latents alone
cannot train that, nor can one that never decodes a clip as a clip. So what is compared with them starts from an autoencoder
that was trained for itself, and keeps it as it is, as published models are used.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad import as_causal_decoder
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.files import whole_folder
from chopgrad_ns.losses import Weighted
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.backbones.base import arguments
from chopgrad_ns.refiner.config import RefinerConfig, tiny_backbone
from chopgrad_ns.refiner.finetune.checkpoint import fingerprint_of_pairs
from chopgrad_ns.refiner.finetune.examples import Examples
from chopgrad_ns.refiner.tasks import task_named
from comparing.kept import keep, kept
from comparing.training import train

LOSSES = Weighted({"l1": 1.0, "ssim": 0.1, "perceptual": 0.1})
LATENT_PENALTY = 1e-4
STATISTICS_FROM = 8
"""Batches over which mean and deviation of latents are taken."""


def autoencoder(folder: Path, pairs: Sequence[StoredPair], task: str, settings: FinetuneSettings,
                progress) -> tuple[AutoencoderKLWan, dict]:
    """The trained autoencoder, its latents normalised, and what is to be told of it: `seconds`. Trained if it is not there."""
    recipe = {"settings": vars(settings), "task": task, "pairs": fingerprint_of_pairs(pairs)}
    found = kept(folder, recipe)
    if found is not None:
        return AutoencoderKLWan.from_pretrained(folder / "vae", local_files_only=True), found
    vae = Refiner(RefinerConfig(output="residual", skips=False)).model.backbone.vae  # the tiny refiner's, as it starts
    clean = _clean(pairs, task, settings)

    def loss_of(step: int) -> Tensor:
        frames = clean(step)
        latents = vae.encode(frames).latent_dist.mode()
        return LOSSES(decoded(vae, latents), frames).mean() + LATENT_PENALTY * latents.square().mean()

    seconds = train(dict(vae.named_parameters()), loss_of, settings, 1e-3, folder, recipe, progress)
    _normalise(vae, [clean(settings.steps + number) for number in range(STATISTICS_FROM)])
    with whole_folder(folder / "vae") as unfinished:
        vae.save_pretrained(unfinished)
    return vae.eval(), keep(folder, recipe, {"seconds": seconds})


def decoded(vae: AutoencoderKLWan, latents: Float[Tensor, "b c tz hz wz"]) -> Float[Tensor, "b 3 t h w"]:
    """The picture among the channels that the decoder puts out, about −1…1."""
    return as_causal_decoder(vae).decode(latents)[:, :3]


def refiner_around(vae: AutoencoderKLWan, task: str, output: str) -> Refiner:
    """The tiny refiner, untrained but for this autoencoder, whose features are not handed from encoder to decoder."""
    backbone = tiny_backbone() | {"vae": arguments(AutoencoderKLWan, vae.config)}
    refiner = Refiner(RefinerConfig(task=task, output=output, skips=False, backbone=backbone))
    refiner.model.backbone.vae.load_state_dict(vae.state_dict())
    with torch.no_grad():  # a transformer that changes nothing, as those of published models nearly do at a small timestep
        refiner.model.backbone.transformer.proj_out.weight.zero_()
        refiner.model.backbone.transformer.proj_out.bias.zero_()
    return refiner


def _clean(pairs: Sequence[StoredPair], task: str, settings: FinetuneSettings):
    """A function that gives a step's clean clips [B, 3, T, H, W] in −1…1."""
    examples = Examples(pairs, task_named(task), settings, 4, 8)
    return lambda step: torch.stack([example.target[:, :3] for example in examples.draw(step)[0]]).transpose(1, 2)


@torch.no_grad()
def _normalise(vae: AutoencoderKLWan, clips: list[Tensor]) -> None:
    """Let the config say what mean and deviation each channel of latents has, so that what is normalised has 0 and 1."""
    latents = torch.cat([vae.encode(frames).latent_dist.mode() for frames in clips])
    mean, deviation = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4)).clamp_min(1e-3)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
