"""Embeddings of prompts, made once with a model's own text encoder, or found beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.backbones.cogvideox import CogVideoX
from chopgrad_ns.refiner.backbones.folders import DESCRIPTIONS, fetched, first_line, read_json
from chopgrad_ns.refiner.backbones.wan import PROMPT_TOKENS

STORED = "prompt_embeddings"


def embed_prompt(source: str | Path, text: str) -> Float[Tensor, "l d"] | None:
    """The embedding of a prompt as the model's pipeline makes it, in 32 bits; None where there is no text encoder.

    One that is in the folder as `prompt_embeddings/<SHA-256 of the prompt>.safetensors` is taken, and so is one beside the
    folder of a CogVideoX without a text encoder, where DOVE keeps them. Otherwise tokenizer and text encoder are loaded (and
    downloaded, for a Hugging Face id), used once and let go.

    Raises:
        UserError: where `source` or what is in it cannot be read.
    """
    folder = fetched(source, [*DESCRIPTIONS, f"{STORED}/*.safetensors"])
    stored = f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    has_encoder = (folder / "text_encoder" / "config.json").is_file()
    for place in (folder, *([folder.parent] if not has_encoder and _is_cogvideox(folder) else [])):
        if (place / STORED / stored).is_file():
            return _stored(place / STORED / stored)
    if not has_encoder:
        return None
    fetched(source, ["tokenizer/*", "text_encoder/*.json", "text_encoder/*.safetensors"])
    return _embedded(folder, text)


def _is_cogvideox(folder: Path) -> bool:
    """Whether a model's transformer, which may be the folder itself, is of this family."""
    files = [place / "config.json" for place in (folder / "transformer", folder)]
    found = next((read_json(file) for file in files if file.is_file()), {})
    return found.get("_class_name") == CogVideoX.transformer_class.__name__


def _stored(file: Path) -> Tensor:
    try:
        embedding = load_file(file)["prompt_embedding"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{file} holds no prompt embedding ({first_line(error)}); copy it again or delete it.") from error
    return embedding.flatten(0, -2).float()


@torch.no_grad()
def _embedded(folder: Path, text: str) -> Tensor:
    # Imported here: it takes seconds, and prompts are embedded once.
    from diffusers import CogVideoXPipeline, WanPipeline
    from transformers import AutoTokenizer, T5EncoderModel, UMT5EncoderModel

    kind = read_json(folder / "text_encoder" / "config.json").get("model_type")
    known = {"umt5": (WanPipeline, UMT5EncoderModel), "t5": (CogVideoXPipeline, T5EncoderModel)}
    if kind not in known:
        raise UserError(f"{folder / 'text_encoder'} holds a {kind}, where {' or '.join(known)} is expected; fetch it again.")
    pipeline_class, encoder_class = known[kind]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder, told = encoder_class.from_pretrained(folder / "text_encoder", dtype="auto", use_safetensors=True,
                                                      local_files_only=True, output_loading_info=True)
        if told["missing_keys"]:
            raise ValueError(f"{len(told['missing_keys'])} weights are missing")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"The tokenizer or the text encoder in {folder} cannot be loaded ({first_line(error)}); copy or fetch "
                        "them again, or take text_encoder away to go without a prompt.") from error
    pipeline = pipeline_class(tokenizer, encoder.eval(), vae=None, transformer=None, scheduler=None)
    embedding, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=_tokens(folder))
    return embedding[0].float()


def _tokens(folder: Path) -> int:
    """Tokens that the transformer was trained with."""
    file = folder / "transformer" / "config.json"
    return read_json(file).get("max_text_seq_length", PROMPT_TOKENS) if file.is_file() else PROMPT_TOKENS
