"""A latent video diffusion model of the Wan2.1 architecture as a single-step video-to-video refiner."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad import as_causal_decoder
from chopgrad_ns.refiner.condition import ConditionEncoder, pool_time
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.decoder import BlendHead, RefinerDecoder


@dataclass
class Batch:
    """B clips of T = 4k + 1 frames at a padded size; pictures in 0…1.

    `render` [B, T, 3, H, W]; `alpha`, `nearness` [B, T, 1, H, W]; `references` [B, T, R, 3, H, W]; `masks`
    [B, T, R, 1, H, W].
    """

    render: Float[Tensor, "b t 3 h w"]
    alpha: Float[Tensor, "b t 1 h w"]
    nearness: Float[Tensor, "b t 1 h w"]
    references: Float[Tensor, "b t r 3 h w"]
    masks: Float[Tensor, "b t r 1 h w"]

    @property
    def residuals(self) -> Float[Tensor, "b t r 3 h w"]:
        """What the photos would change, where they can be believed."""
        return self.masks * (self.references - self.render[:, :, None])


class RefinerModel(nn.Module):
    """Encoder → one transformer step → causal decoder with skips and a bounded head.

    The latent z of the degraded clip stands for the noisy sample at a fixed timestep; with flow matching's
    velocity v, x0 = z − σ·v in one step. Conditioning enters the transformer beside z, and the decoder's
    blocks, through convolutions that start at zero. So do the last layers of transformer and decoder: an untrained
    refiner changes nothing but for the head's slight blend towards the photos.
    """

    def __init__(self, config: RefinerConfig):
        super().__init__()
        self.config = config
        self.vae = AutoencoderKLWan(**config.vae)
        patch_size = tuple(config.transformer["patch_size"])
        self.transformer = WanTransformer3DModel(**{**config.transformer, "patch_size": patch_size})
        full, half, low = config.condition_channels
        self.condition = ConditionEncoder(config.condition_channels)
        self.to_transformer = nn.Conv3d(low, config.vae["z_dim"], 1)
        self.head = BlendHead(config.vae["out_channels"], full)
        self.decoder = RefinerDecoder(as_causal_decoder(self.vae), self.head)
        widths = _block_widths(self.vae)
        # Which features, pooled to which rate in time, meet which block of the decoder.
        self.plan = {"mid_block": (2, 4), "up_blocks.0": (1, 2), "up_blocks.1": (0, 1)}
        self.skips = nn.ModuleDict({
            name.replace(".", "_"): nn.Conv3d((full, half, low)[level], widths[name], 1)
            for name, (level, _) in self.plan.items()})
        last = (self.to_transformer, self.transformer.proj_out, self.vae.decoder.conv_out)
        for layer in [*self.skips.values(), *last]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("prompt", torch.zeros(config.prompt_tokens, config.transformer["text_dim"]))
        # On the CPU, 3D convolutions of few channels run backward 2.5 times as fast in this layout.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                is_3d = isinstance(module, nn.Conv3d)
                module.to(memory_format=torch.channels_last_3d if is_3d else torch.channels_last)

    def latents_and_side(self, batch: Batch) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Refined latents [B, z, Tz, H/4, W/4] in the decoder's space, and what groups get beside them."""
        features = self._features(batch)
        z = self.vae.encode(2 * batch.render.transpose(1, 2) - 1).latent_dist.mode()
        mean, std = (z.new_tensor(self.config.vae[name]).view(1, -1, 1, 1, 1)
                     for name in ("latents_mean", "latents_std"))
        z = (z - mean) / std
        condition = self.to_transformer(pool_time(features[2], self.config.temporal_factor))
        timestep = torch.full((len(z),), self.config.timestep, device=z.device)
        prompt = self.prompt.expand(len(z), -1, -1)
        velocity = self.transformer(torch.cat([z, condition], dim=1), timestep, prompt, return_dict=False)[0]
        refined = (z - self.config.sigma * velocity) * std + mean
        return refined, self._side(batch, features, refined.shape[2])

    def forward(self, batch: Batch) -> Float[Tensor, "b t 3 h w"]:
        """Refined frames in about 0…1, decoded group by group."""
        latents, side = self.latents_and_side(batch)
        state, frames = self.decoder.initial_state(), []
        for index, group in enumerate(self.decoder.groups(latents.shape[2])):
            part, state = self.decoder.decode_group(latents[:, :, group], state, side[index])
            frames.append(part)
        return torch.cat(frames, dim=2).transpose(1, 2) / 2 + 0.5

    def _features(self, batch: Batch) -> list[Float[Tensor, "b t c h w"]]:
        shape = batch.render.shape[:2]
        inputs = (batch.render, batch.alpha, batch.nearness, batch.residuals, batch.masks)
        return [x.unflatten(0, shape) for x in self.condition(*(value.flatten(0, 1) for value in inputs))]

    def _side(self, batch: Batch, features: list[Tensor], num_latent_frames: int) -> list[dict[str, Tensor]]:
        pooled = {}
        for name, (level, frames_each) in self.plan.items():
            layer = self.skips[name.replace(".", "_")]
            pooled[name] = layer(pool_time(features[level], frames_each))
        head = {"features": features[0], "render": batch.render, "alpha": batch.alpha,
                "residuals": batch.residuals, "masks": batch.masks}
        sides = []
        for group in self.decoder.groups(num_latent_frames):
            frames = self.decoder.frames_of(group)
            side = {f"head.{name}": value[:, frames] for name, value in head.items()}
            for name, (_, frames_each) in self.plan.items():
                # Step 0 is the first frame; step s > 0 pools those that end at s · frames_each.
                steps = slice(-(-frames.start // frames_each), (frames.stop - 1) // frames_each + 1)
                side[name] = pooled[name][:, :, steps]
            sides.append(side)
        return sides


def _block_widths(vae: AutoencoderKLWan) -> dict[str, int]:
    """Channels that the decoder's blocks put out, found by decoding one latent."""
    widths: dict[str, int] = {}
    blocks = {f"up_blocks.{i}": block for i, block in enumerate(vae.decoder.up_blocks)}
    blocks["mid_block"] = vae.decoder.mid_block

    def note(name: str):
        return lambda _module, _inputs, output: widths.__setitem__(name, output.shape[1])

    handles = [block.register_forward_hook(note(name)) for name, block in blocks.items()]
    with torch.no_grad():
        vae.decode(torch.zeros(1, vae.config.z_dim, 1, 2, 2))
    for handle in handles:
        handle.remove()
    return widths
