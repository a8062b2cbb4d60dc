"""Loading what is published, and what is said where it cannot be loaded."""

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.backbones import build, load
from tests.refiner.hub import hub
from tests.refiner.published import KINDS, write_published

FILE = "diffusion_pytorch_model.safetensors"
ID = "some-lab/Video.Model-1"


@pytest.fixture
def wan(tmp_path):
    return write_published(tmp_path / "wan", "wan2.1")


@pytest.fixture
def cog(tmp_path):
    return write_published(tmp_path / "cog", "cogvideox1.5")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(*told, **arguments):
    """One sentence that holds all of `told`."""
    with pytest.raises(UserError) as caught:
        load(**arguments)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and message.count(". ") == 0, message
    assert all(part in message for part in told), message


def change(file, **entries):
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_published_ones(kind, tmp_path):
    folder = write_published(tmp_path / "model", kind)
    backbone = load(str(folder))
    expert = "transformer_2" if kind == "wan2.2-a14b" else "transformer"
    for name, module in (("vae", backbone.vae), (expert, backbone.transformer)):
        published = load_file(folder / name / FILE)
        assert published.keys() == module.state_dict().keys()
        assert all(torch.equal(value, published[key]) for key, value in module.state_dict().items())
    assert not backbone.training and backbone.family == ("wan" if kind.startswith("wan") else "cogvideox")


def test_the_expert_of_the_timestep_is_loaded(tmp_path):
    folder = write_published(tmp_path / "model", "wan2.2-a14b")
    for timestep, name, other in ((874, "transformer_2", "transformer"), (875, "transformer", "transformer_2")):
        gone = shutil.move(folder / other, tmp_path / "gone")
        published = load_file(folder / name / FILE)["proj_out.weight"]
        assert torch.equal(load(folder, timestep).transformer.proj_out.weight, published)
        shutil.move(gone, folder / other)
    shutil.rmtree(folder / "transformer_2")
    refused("no transformer_2/config.json", source=folder)


def test_sub_folders_alone_are_enough(wan):
    (wan / "model_index.json").unlink()
    shutil.rmtree(wan / "scheduler")
    assert load(wan).config["scheduler"] == {}


def test_entries_that_are_no_arguments_any_more_do_no_harm(wan):
    for part in ("vae", "transformer"):
        change(wan / part / "config.json", window_size=[-1, -1])
    config = load(wan).config
    assert "window_size" not in config["vae"] | config["transformer"]
    assert build(config).config == config


def test_a_transformer_alone_takes_the_rest_from_its_base(cog, tmp_path):
    trained = write_published(tmp_path / "trained", "dove")
    for name in ("vae", "scheduler"):
        shutil.rmtree(trained / name)
    refused("no vae/config.json", "base", source=trained)
    expected = load_file(trained / "transformer" / FILE)["proj_out.weight"]
    for source in (trained, trained / "transformer"):  # the folder of a training, or its transformer itself
        backbone = load(source, base=cog)
        assert torch.equal(backbone.transformer.proj_out.weight, expected)
        published = load_file(cog / "vae" / FILE)
        assert all(torch.equal(value, published[key]) for key, value in backbone.vae.state_dict().items())
        assert backbone.config["scheduler"]["snr_shift_scale"] == 1.0
    assert not torch.equal(expected, load_file(cog / "transformer" / FILE)["proj_out.weight"])


def test_weights_in_several_files(wan):
    whole = load(wan)
    (wan / "transformer" / FILE).unlink()
    whole.transformer.save_pretrained(wan / "transformer", max_shard_size="40KB")
    shards = sorted((wan / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    again = load(wan)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    shards[1].unlink()
    refused("transformer", "incomplete", source=wan)


def test_16_bits(wan):
    backbone = load(wan, dtype=torch.bfloat16)
    assert backbone.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert backbone.transformer.scale_shift_table.dtype == torch.float32
    assert load(wan).transformer.dtype == torch.float32


def test_pickles_are_refused(wan):
    weights = wan / "transformer" / FILE
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    refused("diffusion_pytorch_model.bin is a pickle", "safe_serialization=True", source=wan)
    index = {"metadata": {}, "weight_map": {"proj_out.weight": "diffusion_pytorch_model.bin"}}
    (wan / "transformer" / f"{FILE}.index.json").write_text(json.dumps(index))
    refused("diffusion_pytorch_model.bin is a pickle", source=wan)


@pytest.mark.parametrize("part", ("vae", "transformer"))
def test_damaged_files(wan, part):
    weights, config = wan / part / FILE, wan / part / "config.json"
    content, described = weights.read_bytes(), config.read_text()
    weights.write_bytes(content[: len(content) // 2])
    refused(f"weights in {wan / part}", "damaged", "again", source=wan)
    weights.unlink()
    refused(f"weights in {wan / part}", "incomplete", source=wan)
    weights.write_bytes(content)
    for broken in (described[:40], "[]", ""):
        config.write_text(broken)
        refused(f"{config} cannot be read", source=wan)


def test_weights_of_another_architecture(wan):
    config = wan / "transformer" / "config.json"
    for entries in ({"ffn_dim": 40}, {"num_layers": 3}, {"num_layers": 1}):
        described = config.read_text()
        change(config, **entries)
        refused(f"weights in {wan / 'transformer'}", "another architecture", source=wan)
        config.write_text(described)
    weights = load_file(wan / "transformer" / FILE)
    save_file({**weights, "extra.weight": torch.zeros(2)}, wan / "transformer" / FILE)
    refused("extra.weight", source=wan)


def test_parts_that_do_not_belong_together(wan, cog):
    shutil.rmtree(wan / "vae")
    shutil.copytree(cog / "vae", wan / "vae")
    refused("AutoencoderKLCogVideoX", "AutoencoderKLWan", source=wan)
    change(wan / "transformer" / "config.json", _class_name="LTXVideoTransformer3DModel")
    refused("LTXVideoTransformer3DModel", "WanTransformer3DModel and CogVideoXTransformer3DModel", source=wan)


def test_models_that_need_more_than_a_prompt_are_refused_before_their_weights_are_read(wan, cog):
    for folder in (wan, cog):
        (folder / "transformer" / FILE).unlink()
        change(folder / "transformer" / "config.json", in_channels=8)
        refused("conditioned on images", "text-to-video", source=folder)
    change(wan / "transformer" / "config.json", in_channels=4, image_dim=16)
    refused("conditioned on images", source=wan)
    change(cog / "transformer" / "config.json", in_channels=4)
    change(cog / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    refused("epsilon", "v_prediction", source=cog)
    shutil.rmtree(cog / "scheduler")
    refused("v_prediction", source=cog)


def test_nothing_there(tmp_path, cache):
    for source in (tmp_path / "none", "none", "a/b/c", "owner/na me", "https://example.org/model", ""):
        refused("neither a folder nor a Hugging Face id", source=source)
    file = tmp_path / "weights.safetensors"
    file.touch()
    refused("neither a folder", source=file)
    (tmp_path / "empty").mkdir()
    refused("no vae/config.json", "hf download", source=tmp_path / "empty")
    refused("neither a folder", "nor a public", source="-bad-/name")


def test_offline_it_says_what_to_fetch(cache):
    refused(ID, f"hf download {ID} --local-dir", source=ID)


def test_an_id_is_loaded_from_the_cache(cache, tmp_path):
    """Laid out as huggingface_hub keeps it: a folder for a commit, and which commit `main` is."""
    store = cache / f"models--{ID.replace('/', '--')}"
    commit = "0" * 40
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text(commit)
    snapshot = store / "snapshots" / commit
    written = write_published(tmp_path / "model", "wan2.1")
    shutil.copytree(written, snapshot)
    backbone = load(ID)
    assert torch.equal(backbone.transformer.proj_out.weight, load(written).transformer.proj_out.weight)
    (snapshot / "vae" / FILE).unlink()
    refused("vae", "incomplete", source=ID)


def test_an_id_is_fetched_with_what_is_needed_of_it_and_no_more(tmp_path):
    """In a process of its own, since where the hub is is read at import."""
    folder = write_published(tmp_path / "model", "wan2.2-a14b", text_encoder=True)
    (folder / "transformer_2" / "unused.bin").touch()
    script = f"""if True:
        import huggingface_hub.constants
        from chopgrad_ns.refiner.backbones import embed_prompt, load
        def told(function, *arguments):
            try:
                return function(*arguments)
            except ValueError as error:
                return str(error)
        print(load("{ID}").transformer.proj_out.weight.sum().item())
        print(told(load, "some-lab/none"))
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        print(load("{ID}").transformer.proj_out.weight.sum().item())
        print(told(load, "{ID}", 900))
        print(told(embed_prompt, "{ID}", ""))
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        print(embed_prompt("{ID}", "").shape)
        """
    with hub(folder, ID) as server:
        environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    first, unknown, again, expert, prompt, embedded = ran.stdout.splitlines()
    total = load_file(folder / "transformer_2" / FILE)["proj_out.weight"].sum().item()
    assert float(first) == float(again) == pytest.approx(total, abs=1e-5)
    assert "neither a folder some-lab/none" in unknown
    for message in (expert, prompt):
        assert f"hf download {ID} --local-dir FOLDER" in message
    assert embedded == "torch.Size([512, 8])" and "Fetching" in ran.stderr and "%" in ran.stderr
    weights = [name for name in server.sent if not name.endswith(".json")]
    assert sorted(weights) == ["text_encoder/model.safetensors", f"transformer_2/{FILE}", f"vae/{FILE}"]
