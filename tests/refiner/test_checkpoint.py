"""Refiners on disk."""

import json
import os

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from tests.refiner.clips import pair, stir


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    refiner = Refiner(RefinerConfig())
    stir(refiner.model)
    folder = tmp_path_factory.mktemp("refiner") / "mine"
    refiner.save(folder)
    return refiner, folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved refiner to be spoilt."""
    saved[0].save(tmp_path / "copy")
    return tmp_path / "copy"


def refused(folder, *words: str, task: str = "artifact-removal") -> None:
    with pytest.raises(UserError) as error:
        Refiner.from_pretrained(folder, task=task)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".")


def test_loaded_refiner_gives_the_same_frames(saved):
    refiner, folder = saved
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert os.listdir(folder.parent) == ["mine"]
    clip = pair(frames=5, height=16, width=16).degraded
    loaded = Refiner.from_pretrained(folder)
    assert loaded.pretrained and torch.equal(loaded(clip), refiner(clip))


def test_weights_of_16_bits_are_rounded_once_and_loaded_with_32(saved, tmp_path):
    refiner, folder = saved
    refiner.save(tmp_path / "half", torch.float16)
    loaded = Refiner.from_pretrained(tmp_path / "half")
    for name, value in refiner.model.state_dict().items():
        found = loaded.model.state_dict()[name]
        assert found.dtype == torch.float32 and torch.equal(found, value.half().float())
    clip = pair(frames=5, height=16, width=16).degraded
    assert 0 < (loaded(clip) - refiner(clip)).abs().max() < 4 / 255
    sizes = [(one / "model.safetensors").stat().st_size for one in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1], "the header has the same size"
    loaded.save(tmp_path / "again", torch.float16)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "half" / "model.safetensors").read_bytes()


def test_saving_again_replaces(saved, copy):
    fresh = Refiner(RefinerConfig())
    fresh.save(copy)
    loaded = Refiner.from_pretrained(str(copy)).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in fresh.model.state_dict().items())


def test_untrained_refiners_are_alike_and_leave_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = Refiner(RefinerConfig()), Refiner(RefinerConfig())
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters()))
    assert not first.pretrained


def test_tiny_loads():
    assert Refiner.from_pretrained("tiny").config.task == "artifact-removal"


def test_config_comes_back(tmp_path):
    config = RefinerConfig(timestep=100, prompt_tokens=3, output="residual", lora={"transformer": {"rank": 4}, "decoder": None})
    (tmp_path / "config.json").write_text(config.to_json())
    assert RefinerConfig.read(tmp_path / "config.json") == config


def test_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "tiny")


def test_missing_config_is_refused(copy):
    (copy / "config.json").unlink()
    refused(copy, "config.json")


def test_missing_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "incomplete")


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_truncated_weights_are_refused(copy, keep):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:keep])
    refused(copy, "incomplete")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": 99}', '"text"', "{", '{"format": 1}'])
def test_broken_config_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    refused(copy, "config.json")


@pytest.mark.parametrize("change", [{"backbone": {"family": "wan"}}, {"backbone": {}}, {"condition_channels": [3]},
                                    {"backbone": None}, {"lora": [1]}, {"lora": {"decoder": 3}}, {"base": 3}, {"prompt": "x"},
                                    {"prompt": {}}, {"timestep": 250.5}, {"timestep": True}, {"skips": 1}, {"keep_contrast": 0}, {"task": 3},
                                    {"condition_channels": 3}, {"prompt_tokens": "x"}, {"lora": {"decoder": {"rank": 2}}},
                                    {"lora": {"decoder": {"rank": 2, "alpha": "x"}}}, {"condition_channels": ["x", 2, 3]}])
def test_config_that_cannot_be_built_is_refused(copy, change):
    about = json.loads((copy / "config.json").read_text()) | change
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy, str(copy))


def test_weights_of_another_size_are_refused(copy):
    about = json.loads((copy / "config.json").read_text())
    about["condition_channels"] = [8, 8, 8]
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy, "architecture")


def test_other_task_is_refused(copy):
    about = json.loads((copy / "config.json").read_text())
    about["task"] = "inpainting"
    (copy / "config.json").write_text(json.dumps(about))
    refused(copy, "inpainting", "artifact-removal")
    refused(copy, "no task", task="dancing")


def test_halves_of_two_saves_are_refused(saved, copy):
    """As an interruption between the two leaves them; the next save puts it right."""
    Refiner(RefinerConfig(timestep=300)).save(copy.parent / "other")
    (copy.parent / "other" / "config.json").rename(copy / "config.json")
    refused(copy, "were not written together")
    left = copy.with_name("copy.part")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    saved[0].save(copy)
    assert Refiner.from_pretrained(copy).config.timestep == 250 and not left.exists()


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file is a file, where a folder is to be written"):
            Refiner(RefinerConfig()).save(folder)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clips_of_other_types_come_back_in_theirs(saved, dtype, precision):
    refiner, clip = saved[0], pair(frames=5, height=16, width=16).degraded
    refiner.precision = precision
    try:
        found, expected = refiner(clip.to(dtype)), refiner(clip)
    finally:
        refiner.precision = "fp32"
    assert found.dtype == dtype
    atol = 2e-2 if dtype == torch.float16 else 2e-3 if precision == "bf16" else 1e-5
    torch.testing.assert_close(found.float(), expected, atol=atol, rtol=0)
