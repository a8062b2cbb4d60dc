"""Backbones of random weights at tiny size, in the folder layouts that the real ones are published in."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

KINDS = ("wan2.1", "wan2.2-5b", "wan2.2-a14b", "cogvideox-2b", "cogvideox-5b", "cogvideox1.5", "dove")
TEXT_DIM = 8
"""Width of a prompt's embedding."""
TEXT_TOKENS = 6
"""Tokens of a prompt of the CogVideoX kinds."""
WORDS = ("▁remove", "▁degradation", "▁a", "▁street", "&", "amp", ";", "▁")

_WAN_VAE = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1,
            "temperal_downsample": [False, True, True], "latents_mean": [0.1, -0.2, 0.3, 0.0],
            "latents_std": [0.8, 1.1, 0.9, 1.3]}
_WAN = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
        "text_dim": TEXT_DIM, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 64}
_COG_VAE = {"block_out_channels": (4, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
            "temporal_compression_ratio": 4, "sample_height": 32, "sample_width": 48}
_COG = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
        "text_embed_dim": TEXT_DIM, "num_layers": 2, "sample_height": 4, "sample_width": 6, "sample_frames": 9,
        "max_text_seq_length": TEXT_TOKENS}
_V = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear",
      "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": True,
      "timestep_spacing": "trailing"}


def write_published(folder: Path, kind: str, text_encoder: bool = False) -> Path:
    """Write a tiny model of one of KINDS, as diffusers' pipelines save it; the same weights each time.

    Widths and heights are multiples of 16 (32 for wan2.2-5b), and latents have four channels. DOVE's is a CogVideoX1.5
    with the empty prompt's embedding in `prompt_embeddings` beside the folder.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        (_write_wan if kind.startswith("wan") else _write_cogvideox)(folder, kind)
        if text_encoder:
            _write_text_encoder(folder, kind.startswith("wan"))
        if kind == "dove":
            beside = folder.parent / "prompt_embeddings"
            beside.mkdir(exist_ok=True)
            embedding = torch.randn(TEXT_TOKENS, TEXT_DIM, dtype=torch.bfloat16)
            save_file({"prompt_embedding": embedding}, beside / f"{sha256(b'').hexdigest()}.safetensors")
    return folder


def _write_wan(folder: Path, kind: str) -> None:
    vae, transformer, index = dict(_WAN_VAE), dict(_WAN), {"boundary_ratio": None, "expand_timesteps": False}
    second = False
    if kind == "wan2.2-5b":
        vae.update(is_residual=True, patch_size=2, in_channels=12, out_channels=12, decoder_base_dim=4,
                   scale_factor_spatial=16)
        index["expand_timesteps"] = True
    elif kind == "wan2.2-a14b":
        index["boundary_ratio"], second = 0.875, True
    AutoencoderKLWan(**vae).save_pretrained(folder / "vae")
    WanTransformer3DModel(**transformer).save_pretrained(folder / "transformer")
    if second:
        WanTransformer3DModel(**transformer).save_pretrained(folder / "transformer_2")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                            flow_shift=3.0).save_pretrained(folder / "scheduler")
    absent = [None, None]
    _write_index(folder, "WanPipeline", **index, transformer=["diffusers", "WanTransformer3DModel"],
                 transformer_2=["diffusers", "WanTransformer3DModel"] if second else absent,
                 vae=["diffusers", "AutoencoderKLWan"], scheduler=["diffusers", "UniPCMultistepScheduler"])


def _write_cogvideox(folder: Path, kind: str) -> None:
    vae, transformer, scheduler = dict(_COG_VAE), dict(_COG), dict(_V, snr_shift_scale=1.0)
    scheduler_class = CogVideoXDPMScheduler
    if kind == "cogvideox-2b":
        vae["scaling_factor"], scheduler["snr_shift_scale"], scheduler_class = 1.15258426, 3.0, CogVideoXDDIMScheduler
    else:
        vae["scaling_factor"], transformer["use_rotary_positional_embeddings"] = 0.7, True
    if kind in ("cogvideox1.5", "dove"):
        transformer.update(patch_size_t=2, patch_bias=False)
        vae["invert_scale_latents"] = False
    AutoencoderKLCogVideoX(**vae).save_pretrained(folder / "vae")
    CogVideoXTransformer3DModel(**transformer).save_pretrained(folder / "transformer")
    scheduler_class(**scheduler).save_pretrained(folder / "scheduler")
    _write_index(folder, "CogVideoXPipeline", transformer=["diffusers", "CogVideoXTransformer3DModel"],
                 vae=["diffusers", "AutoencoderKLCogVideoX"], scheduler=["diffusers", scheduler_class.__name__])


def _write_index(folder: Path, pipeline: str, **entries) -> None:
    content = {"_class_name": pipeline, "_diffusers_version": "0.32.0", **entries}
    (folder / "model_index.json").write_text(json.dumps(content, indent=2))


def _write_text_encoder(folder: Path, is_wan: bool) -> None:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    pieces = [*special, *((word, -1.0) for word in WORDS), *((letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    (_write_tokenizer if is_wan else _write_sentencepiece)(folder / "tokenizer", pieces)
    sizes = {"vocab_size": len(pieces), "d_model": TEXT_DIM, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder = UMT5EncoderModel(UMT5Config(**sizes)) if is_wan else T5EncoderModel(T5Config(**sizes))
    encoder.save_pretrained(folder / "text_encoder")


def _write_tokenizer(folder: Path, pieces: list[tuple[str, float]]) -> None:
    """As Wan's: `tokenizer.json`."""
    model = Tokenizer(models.Unigram(pieces, unk_id=2))
    model.normalizer = normalizers.NFKC()
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)


def _write_sentencepiece(folder: Path, pieces: list[tuple[str, float]]) -> None:
    """As CogVideoX's: `spiece.model` and no `tokenizer.json`."""
    model = sentencepiece_model_pb2.ModelProto()
    for place, (piece, score) in enumerate(pieces):
        kind = {0: 3, 1: 3, 2: 2}.get(place, 1)  # control, control, unknown, then ordinary ones
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = {"model_type": 1, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    for name, value in trainer.items():
        setattr(model.trainer_spec, name, value)
    model.normalizer_spec.name = "nmt_nfkc"
    folder.mkdir()
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    config = {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
              "extra_ids": 0, "legacy": True, "model_max_length": 226}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
