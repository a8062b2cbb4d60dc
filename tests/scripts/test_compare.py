"""The harness of comparisons: every method at toy size, done once, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import compare
import pytest
import torch

from chopgrad_ns.data.stored import save_pair
from chopgrad_ns.data.video import read_frames, write_frames
from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.refiner import Refiner
from comparing import autoencoder, methods, scenes, worlds
from comparing.autoencoder import refiner_around
from tests.plugin.conftest import write_plane_scene
from tests.refiner.clips import task_pair

LEARNT = ["ours", "per-frame", "window-14", "given-pixel", "latent-only", "frame-by-frame", "frame-difference"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_plane_scene(tmp_path_factory.mktemp("of") / "plane")


@pytest.fixture(scope="module")
def command(scene, tmp_path_factory):
    """Frames of the size of the six held-out views are given as a method's."""
    work = tmp_path_factory.mktemp("compared")
    write_frames(work / "grey", torch.full((6, 3, 48, 64), 0.5))
    return ["artifact-removal", "--data", str(scene), "--work", str(work / "work"), "--every", "3", "--longest-side", "64",
            "--steps", "2", "--worlds", "1", "--qualities", "1", "--fit-steps", "20", "--crop", "16", "--batch", "1",
            "--references", "2", "--workers", "1", "--small", "--add", f"grey={work / 'grey'}"]


@pytest.fixture(scope="module")
def work(command):
    compare.main(command)
    return Path(command[command.index("--work") + 1])


def frames_of(work) -> dict[str, torch.Tensor]:
    return {folder.name: read_frames(folder)[1] for folder in (work / "comparison" / "clips" / "plane").iterdir()}


def test_every_baseline_is_in_the_comparison(work):
    found = Comparison.read(work / "comparison")
    names = [method.name for method in found.methods]
    tiny = ["tiny"] if Refiner.from_pretrained("tiny").pretrained else []
    assert names == ["raw", "blend", "ensemble", "ensemble-blend", *LEARNT, *tiny, "grey"]
    clip = found.clips["plane"]
    assert set(clip.values) == set(names) and len(clip.names) == 6 and clip.distance == pytest.approx(
        [1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3]), "views are evenly spaced, and every third is trained on"
    assert set(clip.seconds) == set(names) - {"raw", "ensemble", "grey"}
    frames = frames_of(work)
    grey = (frames["grey"] - frames["truth"]).square().mean(dim=(1, 2, 3)).log10().mul(-10).mean()
    assert found.results("grey").summary()["whole"]["psnr"]["mean"] == pytest.approx(float(grey), abs=1e-4)
    for one, two in (("raw", "blend"), ("raw", "ensemble"), ("ensemble", "ensemble-blend"), ("ours", "raw"),
                     ("ours", "per-frame"), ("ours", "window-14"), ("ours", "given-pixel")):
        assert not torch.equal(frames[one], frames[two]), (one, two)
    table = (work / "table.md").read_text()
    assert all(found.methods[k].label in table for k in range(len(names))) and "| trained | steps |" in table


def test_all_learn_for_as_many_steps_of_about_as_many_pixels(work):
    told = {name: json.loads((work / name / "made.json").read_text())["found"] for name in LEARNT}
    assert {found["steps"] for name, found in told.items() if name in LEARNT[:3]} == {2}
    assert {found["steps"] for name, found in told.items() if name in LEARNT[3:]} == {1}, "the other half made the autoencoder"
    pixels = [found["pixels"] for found in told.values()]
    assert max(pixels) <= 1.5 * min(pixels)
    def usual(crop: int) -> list[int]:
        sizes = {False: [(40, 128, 192)], True: [(40, 64, 96)]}
        return [methods.pixels_a_step(methods.settings_of(method, 300, crop, 2, 0), sizes[method.low])
                for method in methods.METHODS]

    assert max(usual(64)) <= 1.04 * min(usual(64))
    assert min(usual(96)) == 13 * 64 * 96 < max(usual(96)) == 18 * 96 * 96, "what is told is what is trained on"


def test_what_a_method_is_given_stays_as_it_is(work):
    """The autoencoder of those that are given one, and the head of the one whose loss does not reach it."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(work / "autoencoder" / "vae")
    start = refiner_around(vae, "artifact-removal", "residual").model.state_dict()
    for name in LEARNT[3:]:
        now = Refiner.from_pretrained(work / name / "refiner").model.state_dict()
        moved = {key for key, value in now.items() if not torch.equal(value, start[key])}
        assert not any(key.startswith("backbone.vae") for key in moved)
        assert any(key.startswith("backbone.transformer") for key in moved), name
        assert any(key.startswith(("head", "injections")) for key in moved) == (name != "latent-only")
    ours = Refiner.from_pretrained(work / "ours" / "refiner").model.state_dict()
    fresh = Refiner(Refiner.from_pretrained(work / "ours" / "refiner").config).model.state_dict()
    assert any(not torch.equal(ours[key], fresh[key]) for key in ours if key.startswith("backbone.vae.decoder"))


def test_a_second_time_nothing_is_trained_and_all_is_the_same(command, work, monkeypatch, capsys):
    before = frames_of(work)
    for module, name in ((methods, "finetune"), (autoencoder, "train"), (scenes, "fit_views")):
        monkeypatch.setattr(module, name, None)
    compare.main(command)
    after = frames_of(work)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    for change, told in ((["--steps", "6"], "was made with other settings (settings)"),
                         (["--worlds", "2"], "was made with other settings (pairs)"),
                         (["--fit-steps", "21"], "was made with other settings (settings)")):
        with pytest.raises(SystemExit) as caught:
            compare.main([*command, *change])
        assert caught.value.code == 2 and told in capsys.readouterr().err
    assert len(list((work / "pairs").glob("*/pair.json"))) == 2
    assert len(worlds.world_pairs(work / "pairs", 1, 1, worlds.FIRST_SEED, 2, 1, small=True)) == 1, "no more than is asked for"


@pytest.mark.parametrize("change, message", [
    (["--add", "grey"], "'grey' is not of the form NAME=FOLDER"), (["--add", "a=nowhere"], "nowhere has 0 frames"),
    (["--add", "a=x", "a=y"], "names a twice"), (["--every", "1"], "--every is 1; give 2 or more."),
    (["--data", "nothing"], "nothing"), (["--crop", "8"], "--crop is 8; give 16 or more."),
    (["--qualities", "6"], "--qualities is 6; give a number from 1 to 5."), (["--add", "a b=x"], "cannot be called 'a b'"),
    (["--add", "ours=x"], "names ours as a method of this command's own is called"),
])
def test_bad_options_are_one_sentence(command, work, change, message, capsys):
    with pytest.raises(SystemExit) as caught:
        compare.main([*command, *change])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.startswith("compare artifact-removal: ")


def test_frames_of_another_size_are_refused(command, work, tmp_path, capsys):
    write_frames(tmp_path / "small", torch.full((6, 3, 24, 32), 0.5))
    with pytest.raises(SystemExit) as caught:
        compare.main([*command, "--add", f"small={tmp_path / 'small'}"])
    assert caught.value.code == 2 and "have 32×24 px and the held-out views of plane 64×48" in capsys.readouterr().err


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as caught:
        compare.main(["artefacts"])
    assert caught.value.code == 2 and "choose one of artifact-removal, ablation, steps" in capsys.readouterr().err


def test_the_ablation(tmp_path):
    compare.main(["ablation", "--work", str(tmp_path), "--steps", "1", "--autoencoder-steps", "1", "--worlds", "1", "--judges",
                  "1", "--qualities", "1", "--frames", "9", "--crop", "16", "--batch", "1", "--batches", "1", "--workers", "1",
                  "--small"])
    found = Comparison.read(tmp_path / "comparison")
    names = [method.name for method in found.methods]
    assert names == ["raw", "decoded", "latent", "truncated-0", "truncated-1", "exact", "frame-by-frame"]
    (clip,) = found.clips.values()
    assert len(clip.names) == 6, "of nine frames those that the splat was not fitted to"
    gradient, memory = found.curves
    cosine, length = gradient.series["cosine"], gradient.series["length"]
    assert [x for x, _ in cosine] == [0, 1, 2, 3]
    assert cosine[0][1] < cosine[1][1] < 0.99999
    assert [y for line in (cosine, length) for _, y in line[2:]] == pytest.approx([1] * 4), "there are three groups"
    assert set(memory.series) == {"Full", "Truncated(1)", "Exact"} and all(len(line) == 1 for line in memory.series.values())
    table = (tmp_path / "table.md").read_text()
    assert "| pixels, Exact | 1.0000 | 1.000 |" in table and "| latents alone | 1.0000" not in table


def test_one_step_beside_many(tmp_path):
    for folder, seeds in (("pairs", (0, 1)), ("judges", (7,))):
        for seed in seeds:
            made = replace(task_pair("inpainting", 9, 32, 32, seed), name=f"clip-{seed}")
            save_pair(made, tmp_path / folder / made.name, {"scene": made.name})
    compare.main(["steps", "--pairs", str(tmp_path / "pairs"), "--judges", str(tmp_path / "judges"), "--work",
                  str(tmp_path / "work"), "--steps", "2", "--autoencoder-steps", "2", "--crop", "16", "--batch", "1",
                  "--samples", "1", "3"])
    found = Comparison.read(tmp_path / "work" / "comparison")
    assert [method.name for method in found.methods] == ["input", "one-step", "steps-1", "steps-3"]
    shown = ("truth", *(method.name for method in found.methods))
    frames = {name: read_frames(found.frames("clip-7", name))[1] for name in shown}
    outside = ~found.mask("clip-7").expand(-1, 3, -1, -1)
    for name, shown in frames.items():
        assert torch.equal(shown[outside], frames["truth"][outside]), "what is known stays"
        assert name == "steps-3" or not torch.equal(shown, frames["steps-3"])
    quality = next(curve for curve in found.curves if curve.title.startswith("PSNR"))
    assert [x for x, _ in quality.series["flow matching (VACE-style)"]] == [1, 3]
    inside = found.results("steps-3").summary()["inside"]["psnr"]["mean"]
    assert quality.series["flow matching (VACE-style)"][1][1] == pytest.approx(inside)
