"""The causal decoder with an output head that cannot blur what was right."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad import CausalDecoder

BLEND_BIAS = 1.5
"""Logit that a reference's weight starts from: σ(−1.5) ≈ 0.18 of the way to the photo."""
LARGEST_CORRECTION = 0.5
"""Bound on a pixel's learned change, pictures in 0…1."""


class BlendHead(nn.Module):
    """render + alpha · (½·tanh(delta) + Σ_k σ(w_k − 1.5) · mask_k · (warp_k − render)).

    Weights of photos are at most 1 in sum. Last layers start at zero: an untrained head adds no correction of
    its own and moves a little towards the photos.
    """

    def __init__(self, decoded: int, features: int, hidden: int = 16):
        super().__init__()
        self.mix = nn.Conv2d(decoded + features, hidden, 3, padding=1)
        self.delta = nn.Conv2d(hidden, 3, 3, padding=1)
        self.photo = nn.Conv2d(hidden + 4, hidden, 3, padding=1)
        self.weight = nn.Conv2d(hidden, 1, 1)
        for layer in (self.delta, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, decoded: Float[Tensor, "n d h w"], features: Float[Tensor, "n c h w"],
                render: Float[Tensor, "n 3 h w"], alpha: Float[Tensor, "n 1 h w"],
                residuals: Float[Tensor, "n r 3 h w"],
                masks: Float[Tensor, "n r 1 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Refined frames in about 0…1 (not clamped). `residuals` are masked: mask_k · (warp_k − render)."""
        x = F.silu(self.mix(torch.cat([decoded, features], dim=1)))
        change = LARGEST_CORRECTION * torch.tanh(self.delta(x) + decoded[:, :3])
        count = residuals.shape[1]
        if count:
            each = torch.cat([x[:, None].expand(-1, count, -1, -1, -1), residuals, masks], dim=2)
            logits = self.weight(F.silu(self.photo(each.flatten(0, 1)))).unflatten(0, (-1, count))
            weight = torch.sigmoid(logits - BLEND_BIAS)
            total = (weight * masks).sum(dim=1).clamp_min(1)
            change = change + (weight * residuals).sum(dim=1) / total
        return render + alpha * change


class RefinerDecoder(CausalDecoder):
    """The VAE's causal decoder followed by the head, group by group; the head looks at one frame at a time.

    Side inputs of a group: features for the VAE's blocks under their names, and under "head.*" the head's
    inputs, each [B, t, …] for the group's t frames. Frames come out in −1…1.
    """

    HEAD = ("features", "render", "alpha", "residuals", "masks")

    def __init__(self, inner: CausalDecoder, head: BlendHead):
        self.inner, self.head = inner, head

    def groups(self, num_latent_frames):
        return self.inner.groups(num_latent_frames)

    def frames_of(self, group):
        return self.inner.frames_of(group)

    def initial_state(self):
        return self.inner.initial_state()

    def parameters(self):
        yield from self.inner.parameters()
        yield from self.head.parameters()

    def layers(self):
        return self.inner.layers()

    def decode_group(self, latents, state, side=None):
        skips = {name: value for name, value in side.items() if not name.startswith("head.")}
        decoded, state = self.inner.decode_group(latents, state, skips)
        batch, _, count = decoded.shape[:3]
        given = (side[f"head.{name}"].flatten(0, 1) for name in self.HEAD)
        refined = self.head(decoded.transpose(1, 2).flatten(0, 1), *given)
        return (2 * refined - 1).unflatten(0, (batch, count)).transpose(1, 2), state
