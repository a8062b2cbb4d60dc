"""Refiners made of published models."""

import contextlib
import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.backbones import embed_prompt
from chopgrad_ns.refiner.model import collate
from tests.refiner.clips import pair, stir, task_pair
from tests.refiner.published import KINDS, write_published


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of random models, each written once."""
    folder, made = tmp_path_factory.mktemp("published"), {}

    def get(kind: str, text_encoder: bool = False):
        key = f"{kind}{'-text' * text_encoder}"
        if key not in made:
            made[key] = write_published(folder / key / "model", kind, text_encoder=text_encoder)
        return made[key]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_with_the_frames_changes_nothing_before_training(published, kind):
    """And skips, head and conditioning change nothing of what the base alone makes of a clip."""
    refiner = Refiner.from_pretrained(published(kind))
    clip = pair(frames=9, height=32, width=32).degraded
    bare = Clip(clip.frames)
    plain = refiner(bare)
    for given in (clip, replace(bare, photos=torch.rand(2, 3, 40, 50))):
        torch.testing.assert_close(refiner(given), plain, atol=1e-6, rtol=0)
    backbone = refiner.model.backbone
    with torch.no_grad():
        frames = collate([refiner.task.prepare(bare)], refiner.config, backbone).frames
        z = backbone.encode(2 * frames.transpose(1, 2) - 1)
        z = backbone.denoise(z, refiner.config.timestep, refiner.model.prompt[None])
        alone = backbone.vae.decode(backbone.to_decoder(z)).sample[0].transpose(0, 1) / 2 + 0.5
    torch.testing.assert_close(alone.clamp(0, 1)[:9], plain, atol=1e-5, rtol=0)
    assert (plain - clip.frames).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_reaches_every_base(published, kind):
    refiner = Refiner.from_pretrained(published(kind))
    stir(refiner.model)
    clip = pair(frames=9, height=32, width=32).degraded
    plain = refiner(Clip(clip.frames))
    for given in ({"depth": clip.depth}, {"photos": torch.rand(2, 3, 40, 50)},
                  {"references": clip.references, "reference_masks": clip.reference_masks}):
        assert (refiner(Clip(clip.frames, **given)) - plain).abs().max() > 1e-5, given.keys()


@pytest.mark.parametrize("kind", ["wan2.1", "cogvideox1.5"])
def test_a_refiner_is_found_again_with_its_base(published, kind, tmp_path):
    base = shutil.copytree(published(kind), tmp_path / "base")
    refiner = Refiner.from_pretrained(base, task="driving", output="residual", skips=False)
    stir(refiner.model.injections), stir(refiner.model.head), stir(refiner.model.backbone.condition_embed)
    refiner.save(tmp_path / "mine")
    again = Refiner.from_pretrained(tmp_path / "mine", task="driving")
    clip = task_pair("driving").degraded
    assert torch.equal(again(clip), refiner(clip)) and again.config == refiner.config
    names = load_file(tmp_path / "mine" / "model.safetensors").keys()
    assert {name for name in names if name.startswith("backbone.")} == {
        "backbone.condition_embed.weight", "backbone.condition_embed.bias"}, "the rest is the base's"

    config = json.loads((base / "transformer" / "config.json").read_text())
    (base / "transformer" / "config.json").write_text(json.dumps(config | {"eps": 1e-4, "norm_eps": 1e-4}))
    with pytest.raises(UserError, match="another architecture"):
        Refiner.from_pretrained(tmp_path / "mine", task="driving")
    shutil.rmtree(base)
    with pytest.raises(UserError, match=rf'base, which is not there any more; put it back, or write .* "base" in {tmp_path}'):
        Refiner.from_pretrained(tmp_path / "mine", task="driving")


def test_a_base_with_other_weights_is_refused(published, tmp_path):
    """Of the same architecture, however its weights are held; and it is found where it was moved to, once that is written."""
    base = shutil.copytree(published("wan2.1"), tmp_path / "base")
    with contextlib.chdir(tmp_path):
        Refiner.from_pretrained("base").save(tmp_path / "mine")
    for dtype in (None, torch.bfloat16):
        assert Refiner.from_pretrained(tmp_path / "mine", dtype=dtype).precision == ("fp32" if dtype is None else "bf16")
    about = tmp_path / "mine" / "config.json"
    moved = shutil.move(base, tmp_path / "moved")
    about.write_text(about.read_text().replace(str(base), str(moved)))
    assert Refiner.from_pretrained(tmp_path / "mine").config.base == str(moved)
    weights = moved / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["blocks.1.ffn.net.2.weight"][3, 5] += 1e-2
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match="which has other weights now"):
        Refiner.from_pretrained(tmp_path / "mine")


@pytest.mark.parametrize("place", ["transformer", "decoder"])
def test_lora_after_full_training_keeps_both(published, tmp_path, place):
    """What was trained in full is renamed where LoRA is added to it, and is the base's no more."""
    refiner, example = Refiner.from_pretrained(published("wan2.1"), task="driving"), task_pair("driving")
    quick = FinetuneSettings(steps=2, buckets="5x16x16", losses="l1=1", lr=1e-2, ema=0, rank=2, transformer="frozen",
                             decoder="frozen", encoder="frozen")
    plain = refiner(example.degraded)
    for way in ("full", "lora"):
        finetune(refiner, [example], replace(quick, **{place: way}))
        refiner.save(tmp_path / way)
        before, refiner = refiner(example.degraded), Refiner.from_pretrained(tmp_path / way, task="driving")
        torch.testing.assert_close(refiner(example.degraded), before, atol=2e-6, rtol=0)
    assert (before - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name, value", [("prompt", "a red car"), ("timestep", 7), ("parts", "elsewhere"), ("skips", False)])
def test_what_is_fixed_takes_nothing_else(published, tmp_path, name, value):
    Refiner.from_pretrained(published("wan2.1")).save(tmp_path / "mine")
    fixed = {"prompt": "remove degradation", "timestep": 250, "skips": True}
    for source in [tmp_path / "mine"] + ["tiny"] * (name in ("prompt", "parts")):
        with pytest.raises(UserError, match=f"leave the {name} out"):
            Refiner.from_pretrained(source, **{name: value})
    assert Refiner.from_pretrained(tmp_path / "mine", **fixed).config.timestep == 250


def test_tiny_computes_in_the_type_and_where_it_is_asked_to(tmp_path, monkeypatch):
    assert Refiner.from_pretrained("tiny", dtype=torch.bfloat16).precision == "bf16"
    Refiner.from_pretrained("tiny").save(tmp_path / "mine")
    assert Refiner.from_pretrained(tmp_path / "mine", dtype=torch.bfloat16).precision == "bf16"
    with pytest.raises(UserError, match="dtype of tiny cannot be torch.float16"):
        Refiner.from_pretrained("tiny", dtype=torch.float16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # what went by way of a GPU would fail for want of one
    for source in ("tiny", tmp_path / "mine"):
        assert Refiner.from_pretrained(source, device="cpu").device.type == "cpu"


def test_prompts_are_embedded_or_recorded_as_missing(published):
    plain = Refiner.from_pretrained(published("wan2.1"))
    assert plain.config.prompt == {"text": "remove degradation", "source": "zero"} and not plain.model.prompt.any()
    base = published("wan2.1", text_encoder=True)
    told = Refiner.from_pretrained(base)
    assert told.config.prompt == {"text": "remove degradation", "source": "base"}
    assert torch.equal(told.model.prompt, embed_prompt(base, "remove degradation"))
    other = Refiner.from_pretrained(base, prompt="a red car")
    assert not torch.equal(other.model.prompt, told.model.prompt)
    with pytest.raises(UserError, match="no text encoder"):
        Refiner.from_pretrained(published("wan2.1"), prompt="a red car")


def test_dove_brings_the_embedding_of_no_text(published):
    refiner = Refiner.from_pretrained(published("dove"))
    assert refiner.config.prompt == {"text": "", "source": "base"} and refiner.model.prompt.any()
    assert refiner.config.timestep == 399
    assert Refiner.from_pretrained(published("dove"), timestep=100).config.timestep == 100


@pytest.mark.parametrize("shape", [(7, 8), (6, 9)])
def test_an_embedding_of_another_model_is_refused(published, tmp_path, shape):
    model = shutil.copytree(published("dove"), tmp_path / "model")
    (model / "prompt_embeddings").mkdir()
    name = f"{hashlib.sha256(b'').hexdigest()}.safetensors"
    save_file({"prompt_embedding": torch.zeros(shape)}, model / "prompt_embeddings" / name)
    with pytest.raises(UserError, match=f"has {shape[0]} tokens of {shape[1]} values, where the model takes up to 6 of 8"):
        Refiner.from_pretrained(model)


def test_a_transformer_alone_needs_the_other_parts(published, tmp_path):
    whole = published("cogvideox1.5")
    alone = shutil.copytree(whole / "transformer", tmp_path / "checkpoint-500")
    with pytest.raises(UserError, match="vae"):
        Refiner.from_pretrained(alone)
    refiner = Refiner.from_pretrained(alone, parts=whole)
    clip = pair().degraded
    assert torch.equal(refiner(clip), Refiner.from_pretrained(whole)(clip))
    refiner.save(tmp_path / "mine")
    assert torch.equal(Refiner.from_pretrained(tmp_path / "mine")(clip), refiner(clip))
