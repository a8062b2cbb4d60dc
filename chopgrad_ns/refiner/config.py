"""What a refiner is made of: everything needed to build it again, as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from chopgrad_ns.errors import UserError

FORMAT = 4
Output = Literal["correct", "decode", "residual"]
_KINDS = {"task": (str,), "backbone": (dict,), "base": (str, type(None)), "parts": (str, type(None)),
          "base_weights": (str, type(None)), "timestep": (int,), "prompt": (dict,), "prompt_tokens": (int,),
          "condition_channels": (list,), "skips": (bool,), "keep_contrast": (bool,), "lora": (dict,)}
_CALLED = {str: "text", dict: "a mapping", type(None): "null", int: "a whole number", list: "a list", bool: "true or false"}


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
    base_weights: str | None = None
    """`Backbone.fingerprint` of the base; None where there is none"""
    timestep: int = 250
    """0…999: the degraded clip's latent is taken for the noisy sample at this step"""
    prompt: dict = field(default_factory=lambda: {"text": "", "source": "zero"})
    """what the prompt embedding says, and whether it is zero or came with the base"""
    prompt_tokens: int = 1
    output: Output = "correct"
    """the picture before the head: the input, which the decoder's first channels correct within bounds ("correct"); what is
    decoded ("decode"); or input + decoded(refined latent) − decoded(latent of the input) ("residual")"""
    condition_channels: list[int] = field(default_factory=lambda: [16, 32, 48])
    """features of the conditioning at full, half, … and latent resolution"""
    skips: bool = True
    """whether the autoencoder's encoder hands its features to the decoder"""
    keep_contrast: bool = False
    """whether detail that was smoothed is raised to the contrast that it had in the clip, after all else (see `contrast`): a
    refiner that is not sure of what it sees smooths it, and what it saw is nearer to the truth in that"""
    lora: dict = field(default_factory=lambda: {"transformer": None, "decoder": None})
    """rank and alpha of low-rank updates of each, where it has any"""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if type(getattr(self, name)) not in kinds:
                raise UserError(f"The {name} of the refiner is {getattr(self, name)!r}; give "
                                f"{' or '.join(_CALLED[kind] for kind in kinds)}.")
        if not all(type(self.prompt.get(name)) is str for name in ("text", "source")):
            raise UserError(f"The prompt of the refiner is {self.prompt!r}; give its text and its source.")
        if not all(type(value) in (dict, type(None)) for value in self.lora.values()):
            raise UserError(f"The lora of the refiner is {self.lora!r}; give rank and alpha of each, or null.")
        if self.output not in get_args(Output):
            raise UserError(f"There is no output {self.output!r}; choose one of {', '.join(get_args(Output))}.")
        if not 0 <= self.timestep <= 999:
            raise UserError(f"The timestep is {self.timestep}; give one from 0 to 999.")

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @property
    def digest(self) -> str:
        """Of all but where the base is to be found, which may be changed by hand when it has moved."""
        fixed = {name: value for name, value in asdict(self).items() if name not in ("base", "parts")}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

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
