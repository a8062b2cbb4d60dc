"""Multi-step sampling of the refiner's backbone for inpainting, as VACE (arXiv 2503.07598) does it at full size.

Flow matching: of clean latents z₀ and noise ε the sample at σ is (1 − σ)·z₀ + σ·ε, and the transformer learns its velocity
ε − z₀ at any σ. Sampling begins with noise at σ = 1 and takes N Euler steps to 0. What is known of the clip, its latents with
the hole filled from around it, and features of the frames and the mask, goes beside the tokens as conditions of a refiner do.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.refiner import FinetuneSettings
from chopgrad_ns.refiner.condition import pool_time
from chopgrad_ns.refiner.finetune.checkpoint import fingerprint, fingerprint_of_pairs
from chopgrad_ns.refiner.finetune.examples import Examples
from chopgrad_ns.refiner.finetune.parts import Parts, set_trained
from chopgrad_ns.refiner.model import Batch, collate
from comparing.autoencoder import decoded, refiner_around
from comparing.training import train

TASK = "inpainting"
STEPS = 1000
"""Timesteps of the transformer: σ = timestep / 1000."""


class Sampler:
    """The backbone of the tiny refiner around a trained autoencoder, to be sampled in several steps."""

    def __init__(self, vae: AutoencoderKLWan):
        self.refiner = refiner_around(vae, TASK, "decode")
        self.model, self.backbone, self.vae = self.refiner.model, self.refiner.model.backbone, vae
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone.condition_on(self.refiner.config.condition_channels[-1] + vae.config.z_dim)

    def train(self, pairs: Sequence[StoredPair], settings: FinetuneSettings, folder: Path, progress) -> dict:
        """Train transformer and conditioning, or take up what is there; what is to be told of it: `steps` and `seconds`."""
        trained = set_trained(self.model, Parts("full", "frozen", "frozen", "frozen"))
        examples = Examples(pairs, self.refiner.task, settings, self.backbone.frame_step, self.backbone.spatial_factor)

        def loss_of(step: int) -> Tensor:
            drawn, _ = examples.draw(step)
            batch = collate([example.clip for example in drawn], self.refiner.config, self.backbone)
            with torch.no_grad():
                clean = self.model.encode(torch.stack([example.target[:, :3] for example in drawn]) / 2 + 0.5)
            return self.velocity_loss(clean, self.condition(batch))

        recipe = {"settings": vars(settings), "start": fingerprint(self.model.state_dict()),
                  "pairs": fingerprint_of_pairs(pairs)}
        seconds = train(trained, loss_of, settings, 1e-3, folder, recipe, progress)
        return {"steps": settings.steps, "seconds": seconds}

    def condition(self, batch: Batch) -> Float[Tensor, "b c tz hz wz"]:
        """Features of what is known, and its latents."""
        features = pool_time(self.model.features(batch)[-1], self.backbone.temporal_factor)
        with torch.no_grad():
            return torch.cat([features, self.model.encode(batch.frames)], dim=1)

    def velocity_loss(self, clean: Float[Tensor, "b c tz hz wz"],
                      condition: Float[Tensor, "b c2 tz hz wz"]) -> Float[Tensor, ""]:
        """Mean square of the velocity's error, each clip at a timestep and with noise of its own."""
        losses = []
        for one, beside in zip(clean.split(1), condition.split(1)):
            timestep, noise = int(torch.randint(1, STEPS + 1, ())), torch.randn_like(one)
            sigma = timestep / STEPS
            found = self.backbone.denoise((1 - sigma) * one + sigma * noise, timestep, self.model.prompt[None], beside)
            losses.append(((found - one) / sigma).square().mean())  # what is left of z0 is σ times what is left of the velocity
        return torch.stack(losses).mean()

    @torch.no_grad()
    def sample(self, clip: Clip, steps: int, seed: int = 0) -> Float[Tensor, "t 3 h w"]:
        """The clip with its hole filled, 0…1, in so many Euler steps from σ = 1 to 0; elsewhere frames are as they were."""
        prepared = self.refiner.task.prepare(clip)
        batch = collate([prepared], self.refiner.config, self.backbone)
        condition = self.condition(batch)
        shape = self.model.encode(batch.frames).shape
        z = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        times = [round(STEPS * (steps - k) / steps) for k in range(steps + 1)]
        for now, after in zip(times, times[1:]):
            clean = self.backbone.denoise(z, now, self.model.prompt[None], condition)
            z = clean + after / now * (z - clean)  # along the straight line through both
        frames = decoded(self.vae, self.backbone.to_decoder(z))[0].transpose(0, 1)
        count, _, height, width = clip.frames.shape
        filled = (frames[:count, :, :height, :width] / 2 + 0.5).clamp(0, 1)
        return prepared.frames + prepared.mask * (filled - prepared.frames)
