"""What a refiner is made of: everything needed to build it again, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from chopgrad_ns.errors import UserError

FORMAT = 2
Output = Literal["correct", "decode", "residual"]


def tiny_backbone() -> dict:
    """Wan2.1's architecture at the size of the embedded refiner; the decoder puts out features, three of them colours."""
    vae = {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 8, "dim_mult": [1, 2, 4], "num_res_blocks": 1, "attn_scales": [],
           "temperal_downsample": [True, True], "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8, "out_channels": 8}
    transformer = {"patch_size": [1, 2, 2], "num_attention_heads": 4, "attention_head_dim": 24, "in_channels": 8,
                   "out_channels": 8, "text_dim": 16, "freq_dim": 32, "ffn_dim": 256, "num_layers": 2,
                   "rope_max_seq_len": 256}
    return {"family": "wan", "vae": vae, "transformer": transformer, "scheduler": {}}


@dataclass
class RefinerConfig:
    """Architecture of a refiner, and where what it was made from is."""

    task: str = "artifact-removal"
    backbone: dict = field(default_factory=tiny_backbone)
    """family, and the arguments of diffusers' classes, as `backbones.build` takes them"""
    base: str | None = None
    """Hugging Face id or folder of the published model that tensors which are not stored come from; None: all are stored"""
    parts: str | None = None
    """the same for parts that the base lacks: a training may have left its transformer alone"""
    timestep: int = 250
    """0…999: the degraded clip's latent is taken for the noisy sample at this step"""
    prompt: dict = field(default_factory=lambda: {"text": "", "source": "zero"})
    """what the prompt embedding says, and whether it is zero or came with the base"""
    prompt_tokens: int = 1
    output: Output = "correct"
    """the picture before the head: the input, which the decoder's first channels correct within bounds ("correct"); what is
    decoded ("decode"); or input + decoded(refined latent) − decoded(latent of the input) ("residual")"""
    condition_channels: list[int] = field(default_factory=lambda: [12, 24, 32])
    """features of the conditioning at full, half, … and latent resolution"""
    skips: bool = True
    """whether the autoencoder's encoder hands its features to the decoder"""
    lora: dict = field(default_factory=lambda: {"transformer": None, "decoder": None})
    """rank and alpha of low-rank updates of each, where it has any"""

    def __post_init__(self) -> None:
        if self.output not in get_args(Output):
            raise UserError(f"There is no output {self.output!r}; choose one of {', '.join(get_args(Output))}.")
        if not 0 <= self.timestep <= 999:
            raise UserError(f"The timestep is {self.timestep}; give one from 0 to 999.")

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
            raise UserError(f"{path} does not describe a refiner ({str(error).rstrip('.')}); give a folder that chopgrad "
                            "finetune wrote.") from error
