"""What a refiner is made of: everything needed to build it again, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from chopgrad_ns.errors import UserError

FORMAT = 1
TASKS = ("artifact-removal",)


def _tiny_vae() -> dict:
    return {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 8, "dim_mult": [1, 2, 4], "num_res_blocks": 1,
            "attn_scales": [], "temperal_downsample": [True, True], "latents_mean": [0.0] * 8,
            "latents_std": [1.0] * 8, "out_channels": 8}


def _tiny_transformer() -> dict:
    return {"patch_size": [1, 2, 2], "num_attention_heads": 4, "attention_head_dim": 24, "in_channels": 16,
            "out_channels": 8, "text_dim": 16, "freq_dim": 32, "ffn_dim": 256, "num_layers": 2,
            "rope_max_seq_len": 256}


@dataclass
class RefinerConfig:
    """Architecture of a refiner; `vae` and `transformer` are the arguments of diffusers' classes."""

    task: str = "artifact-removal"
    vae: dict = field(default_factory=_tiny_vae)
    """of AutoencoderKLWan; its first three output channels are a colour correction, all feed the head"""
    transformer: dict = field(default_factory=_tiny_transformer)
    """of WanTransformer3DModel; takes latents and as many channels of conditioning"""
    condition_channels: list[int] = field(default_factory=lambda: [12, 24, 32])
    """features of the conditioning at full, half and latent resolution"""
    timestep: int = 250
    """of 1000: the degraded clip's latent is taken for the noisy sample at this step"""
    prompt_tokens: int = 1
    """length of the prompt embedding, which is zero: this task has no text"""

    @property
    def sigma(self) -> float:
        """Noise level of flow matching at the timestep."""
        return self.timestep / 1000

    @property
    def spatial_factor(self) -> int:
        """Width and height are padded to a multiple of this: latent compression times transformer patch."""
        return 2 ** (len(self.vae["dim_mult"]) - 1) * self.transformer["patch_size"][-1]

    @property
    def temporal_factor(self) -> int:
        """A clip is padded to a multiple of this, plus one."""
        return 2 ** sum(self.vae["temperal_downsample"])

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def read(cls, path: Path) -> RefinerConfig:
        """Read `config.json`. Raises UserError where it is not one of ours."""
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != FORMAT or set(content) != {entry.name for entry in fields(cls)}:
                raise ValueError("it was written by another version")
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} does not describe a refiner ({error}); give a folder that chopgrad "
                            "finetune wrote.") from error
