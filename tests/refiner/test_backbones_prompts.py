"""Prompts' embeddings against the pipelines' own, and those that DOVE keeps."""

import hashlib
import json
import shutil

import pytest
import torch
from diffusers import CogVideoXPipeline, WanPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, T5EncoderModel, UMT5EncoderModel

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.backbones import embed_prompt, load
from tests.refiner.published import TEXT_DIM, TEXT_TOKENS, write_published

TEXT = "Remove  degradation &amp;amp; a street \n"


@pytest.fixture
def wan(tmp_path):
    return write_published(tmp_path / "wan" / "model", "wan2.1", text_encoder=True)


@pytest.fixture
def cog(tmp_path):
    return write_published(tmp_path / "cog" / "model", "cogvideox-5b", text_encoder=True)


def refused(folder, *told):
    with pytest.raises(UserError) as caught:
        embed_prompt(folder, TEXT)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and message.count(". ") == 0, message
    assert all(part in message for part in told), message


def test_wan_cleans_the_text_and_fills_up_with_zeros(wan):
    """By hand: the text without entities and doubled blanks, encoded alone, then zeros up to 512 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(wan / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(wan / "text_encoder")
    for text, clean in ((TEXT, "Remove degradation & a street"), ("", "")):
        ids = tokenizer(clean, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = encoder(ids).last_hidden_state[0]
        embedding = embed_prompt(wan, text)
        assert embedding.shape == (512, TEXT_DIM) and embedding.dtype == torch.float32
        torch.testing.assert_close(embedding[: len(expected)], expected, atol=1e-5, rtol=1e-5)
        assert expected.any() and not embedding[len(expected) :].any()
    pipeline = WanPipeline(tokenizer, encoder, None, None)
    with torch.no_grad():
        theirs = pipeline._get_t5_prompt_embeds(TEXT, max_sequence_length=512)[0]
    torch.testing.assert_close(embed_prompt(wan, TEXT), theirs, atol=1e-6, rtol=1e-6)


def test_cogvideox_encodes_all_its_tokens(cog):
    tokenizer = AutoTokenizer.from_pretrained(cog / "tokenizer")
    encoder = T5EncoderModel.from_pretrained(cog / "text_encoder")
    assert tokenizer("a street").tokens() == ["▁a", "▁street", "</s>"] and not (cog / "tokenizer" / "tokenizer.json").exists()
    embeddings = []
    for text in (TEXT, ""):
        ids = tokenizer(text, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = encoder(ids).last_hidden_state[0]
            theirs, _ = CogVideoXPipeline(tokenizer, encoder, None, None, None).encode_prompt(
                text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS)
        embeddings.append(embed_prompt(cog, text))
        assert embeddings[-1].shape == (TEXT_TOKENS, TEXT_DIM)
        torch.testing.assert_close(embeddings[-1], expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(embeddings[-1], theirs[0], atol=1e-6, rtol=1e-6)
    assert (embeddings[0] - embeddings[1]).abs().max() > 0.1


def test_a_prompt_changes_what_the_backbone_gives(wan, cog):
    for folder in (wan, cog):
        backbone = load(folder)
        z = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            some, empty = (backbone.denoise(z, backbone.default_timestep, embed_prompt(folder, text)[None])
                           for text in (TEXT, ""))
        assert some.isfinite().all() and not torch.equal(some, empty)


def test_no_text_encoder_no_embedding(tmp_path):
    assert embed_prompt(write_published(tmp_path / "model", "wan2.1"), "") is None


def test_stored_embeddings_come_first(tmp_path):
    """As DOVE keeps them: beside the folder, or in it, named by the text's SHA-256; the name for "" is in its sources."""
    folder = write_published(tmp_path / "model", "dove", text_encoder=True)
    beside = tmp_path / "prompt_embeddings" / "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.safetensors"
    assert beside.is_file()
    encoded, own = (embed_prompt(folder, text) for text in (TEXT, ""))
    shutil.rmtree(folder / "text_encoder")
    stored = embed_prompt(folder, "")
    assert stored.shape == (TEXT_TOKENS, TEXT_DIM) and stored.dtype == torch.float32
    assert not torch.equal(stored, own), "a model's own text encoder comes before what lies beside it"
    assert embed_prompt(folder, TEXT) is None
    (folder / "prompt_embeddings").mkdir()
    file = folder / "prompt_embeddings" / f"{hashlib.sha256(TEXT.encode()).hexdigest()}.safetensors"
    save_file({"prompt_embedding": encoded[None]}, file)  # with a batch's dimension, as some are
    assert torch.equal(embed_prompt(folder, TEXT), encoded)
    save_file({"other": encoded}, file)
    refused(folder, f"{file} holds no prompt embedding")
    file.write_bytes(b"cut short")
    refused(folder, f"{file} holds no prompt embedding")


def test_embeddings_beside_are_not_for_other_families(tmp_path):
    write_published(tmp_path / "dove", "dove")
    assert embed_prompt(write_published(tmp_path / "wan", "wan2.1"), "") is None


def test_damaged_text_encoders(wan):
    weights, config = wan / "text_encoder" / "model.safetensors", wan / "text_encoder" / "config.json"
    content, described = weights.read_bytes(), config.read_text()
    weights.write_bytes(content[:500])
    refused(wan, "text encoder", "again")
    weights.write_bytes(content)
    config.write_text(json.dumps({**json.loads(described), "num_layers": 2}))
    refused(wan, "weights are missing")
    config.write_text(json.dumps({**json.loads(described), "model_type": "bert"}))
    refused(wan, "bert", "umt5 or t5")
    config.write_text(described[:20])
    refused(wan, f"{config} cannot be read")
    config.write_text(described)
    shutil.rmtree(wan / "tokenizer")
    refused(wan, "tokenizer")
