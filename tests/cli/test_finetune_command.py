"""`chopgrad finetune`: tasks, bases, validation, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.stored import save_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import Refiner, tasks
from chopgrad_ns.refiner.finetune.validation import check_apart, hold_out
from tests.cli.refusals import refused
from tests.refiner.clips import TASKS, task_pair
from tests.refiner.published import write_published

QUICK = ["--steps", "2", "--buckets", "5x16x16x2=1,whole=1", "--losses", "l1=1,latent=0.1@1"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Three pairs of three scenes for each task."""
    folder = tmp_path_factory.mktemp("pairs")
    for task in TASKS:
        for seed in range(3):
            made = task_pair(task, frames=5, seed=seed)
            save_pair(made, folder / made.name, {"scene": f"scene-{seed}"})
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_each_task_finds_its_pairs_among_others(pairs, tmp_path, capsys, task):
    main(["finetune", "--task", task, "--pairs", str(pairs), "--output", str(tmp_path), *QUICK, "--scale", "2"])
    shown = capsys.readouterr().out
    assert "Each step is trained on 2 × 5 frames of 16×16 pixels, or 1 × up to 5 frames of up to 32×32 pixels." in shown
    needed = {"artifact-removal": "SCENE --splat", "super-resolution": f"VIDEO --task {task} --scale"}
    assert f"next: chopgrad refine {needed.get(task, f'VIDEO --task {task} --masks')}" in shown
    assert "9 of 12 pairs are for" in shown and all(other in shown for other in TASKS if other != task)
    refiner = Refiner.from_pretrained(tmp_path, task=task)
    fresh = Refiner.from_pretrained("tiny", task=task).model.state_dict()
    assert refiner.pretrained and any(not torch.equal(value, fresh[name]) for name, value in refiner.model.state_dict().items())


def test_validation_is_written_and_never_trained_on(pairs, tmp_path, capsys):
    """Metrics as printed are those of the refiner that was saved; the same training without validation gives the same."""
    command = ["finetune", "--pairs", str(pairs), *QUICK, "--hold-out", "1", "--validate-every", "1"]
    main([*command, "--output", str(tmp_path / "judged")])
    shown = capsys.readouterr().out
    told = re.search(r"PSNR (\S+) as given, (\S+) before, (\S+) after", shown)
    films = list((tmp_path / "judged" / "validation").glob("*.mp4"))
    assert len(films) == 1 and len(imageio.imread(films[0])) == 5
    assert imageio.imread(films[0]).shape[1:3] == (32, 3 * 32 + 2 * 4), "degraded | refined | clean"
    made = (task_pair("artifact-removal", frames=5, seed=seed) for seed in range(3))
    held = next(one for one in made if one.name == films[0].stem)
    after = Refiner.from_pretrained(tmp_path / "judged")(held.degraded)
    error = ((after - held.clean) ** 2).mean(dim=(1, 2, 3))
    assert float(told[3]) == pytest.approx(float((-10 * error.log10()).mean()), abs=0.05)
    scalars = read_scalars(tmp_path / "judged" / "tensorboard")
    assert {"loss", "losses/l1", "losses/latent", "lr", "gradient_norm", "seconds_a_step", "peak_gigabytes", "validation/psnr",
            "validation/ssim", "validation/perceptual"} <= set(scalars)
    assert [step for step, _ in scalars["validation/psnr"]] == [1, 2]
    others = tmp_path / "others"
    for folder in pairs.glob("artifact-removal-*"):
        if folder.name != films[0].stem:
            (others / folder.name).parent.mkdir(exist_ok=True)
            (others / folder.name).symlink_to(folder)
    main(["finetune", "--pairs", str(others), *QUICK, "--output", str(tmp_path / "alone")])
    one, two = (Refiner.from_pretrained(tmp_path / name).model.state_dict() for name in ("judged", "alone"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert "degraded, refined, clean" in events.Tags()["images"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_pairs_of_a_held_out_scene_are_not_trained_on():
    class Stored:
        def __init__(self, scene: int, fold: int):
            self.name, self.about = f"{scene}-{fold}", {"scene": scene}

    everything = [Stored(scene, fold) for scene in range(4) for fold in range(3)]
    for seed in range(5):
        for count, left in ((2, 9), (4, 6)):
            train, held = hold_out(everything, count, seed)
            scenes = [{one.about["scene"] for one in some} for some in (train, held)]
            assert (len(train), len(held)) == (left, count) and not scenes[0] & scenes[1]
    assert len({hold_out(everything, 1, seed)[1][0].name for seed in range(8)}) > 1


@pytest.mark.parametrize("scene", [{"fingerprint": 0, "name": "a"}, {"kind": "street", "seed": 0, "name": "a"}, {"name": "a"}])
def test_a_scene_is_one_scene_however_its_views_were_chosen(scene):
    class Stored:
        def __init__(self, scene: dict, views: str):
            self.name, self.about = f"{scene}-{views}", {"scene": scene | {"licence": views, "views": views}}

    other = {name: 1 if value == 0 else "b" for name, value in scene.items()}
    everything = [Stored(one, views) for one in (scene, other) for views in ("all", "every 8th")]
    train, held = hold_out(everything, 1, 0)
    assert len(train) == 2 and held[0].name not in {pair.name for pair in train}
    assert len({str(pair.about["scene"]["name"]) for pair in train}) == 1
    check_apart(train, held)
    with pytest.raises(UserError, match="to judge by is of the same scene as .* which is trained on"):
        check_apart(train[:1], train[1:])


def test_validation_by_scenes_that_are_trained_on_is_refused(pairs, tmp_path, capsys):
    command = ["finetune", "--pairs", str(pairs), "--output", str(tmp_path / "refiner"), *QUICK, "--validation", str(pairs)]
    refused_last(capsys, *command, message="artifact-removal-0 to judge by is of the same scene as artifact-removal-0")


def test_an_interrupted_run_given_again_continues(pairs, tmp_path, capsys):
    command = ["finetune", "--pairs", str(pairs), "--output", str(tmp_path), *QUICK, "--checkpoint-every", "1"]
    main(command)
    before = Refiner.from_pretrained(tmp_path).model.state_dict()
    assert "has ended already" not in capsys.readouterr().out
    main(command)
    assert "has ended already, after 2 steps" in capsys.readouterr().out
    after = Refiner.from_pretrained(tmp_path).model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    refused(capsys, *command, "--lr", "0.5", message="other settings (lr)")
    (tmp_path / "progress" / "step-2.safetensors").write_bytes(b"half")
    refused(capsys, *command, message="cannot be read")


def test_lora_of_everything_and_no_decoding(pairs, tmp_path):
    main(["finetune", "--pairs", str(pairs), "--output", str(tmp_path), "--steps", "1", "--buckets", "5x16x16", "--losses",
          "latent=1", "--transformer", "lora", "--decoder", "lora", "--encoder", "frozen", "--rank", "3", "--schedule",
          "constant", "--precision", "bf16", "--gradient-checkpointing", "--accumulate", "2", "--no-fresh"])
    assert json.loads((tmp_path / "config.json").read_text())["lora"] == {
        "transformer": {"rank": 3, "alpha": 3.0}, "decoder": {"rank": 3, "alpha": 3.0}}
    assert Refiner.from_pretrained(tmp_path).pretrained


def test_a_base_keeps_detail_as_told(pairs, tmp_path):
    base = write_published(tmp_path / "base", "wan2.1")
    command = ["finetune", "--pairs", str(pairs), "--base", str(base), *QUICK]
    main([*command, "--output", str(tmp_path / "one")])
    main([*command, "--output", str(tmp_path / "two"), "--detail", "residual", "--skips", "False"])
    configs = [Refiner.from_pretrained(tmp_path / name).config for name in ("one", "two")]
    assert [(config.output, config.skips) for config in configs] == [("decode", True), ("residual", False)]


def refused_last(capsys, *arguments: str, message: str) -> None:
    """As `refused`, whatever was said before."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and message in last and last.endswith(".")


@pytest.mark.parametrize("options, message", [
    (["--task", "painting"], "There is no task 'painting'"),
    (["--buckets", "9x48"], "'9x48' in the buckets '9x48' is not of the form"),
    (["--rank", "0"], "rank is 0; give 1 or more"), (["--memory-budget", "much"], "'much' is no size of memory"),
    (["--hold-out", "3"], "Holding out 3 of 3 pairs, which are of 3 scenes, leaves none"),
    (["--hold-out", "1", "--validation", "x"], "not both"), (["--fsdp"], "there is one; start several"),
    (["--base", "nowhere/at/all"], "nowhere/at/all"),
])
def test_refusals(pairs, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused_last(capsys, "finetune", "--pairs", str(pairs), "--output", str(tmp_path / "refiner"), *QUICK, *options,
                 message=message)
    assert not list(tmp_path.iterdir()), "nothing is left half-written"


def test_pairs_of_other_tasks_alone_are_refused(tmp_path, capsys):
    save_pair(task_pair("driving", frames=5, seed=0), tmp_path / "pairs" / "drive")
    command = ["finetune", "--pairs", tmp_path / "pairs", "--output", tmp_path / "refiner", *QUICK]
    refused(capsys, *command, message="is for artifact-removal, they are for driving; give that --task")
    assert not (tmp_path / "refiner").exists()


@pytest.mark.parametrize("below", ["", "refiner"])
def test_an_output_that_is_a_file_is_refused_before_anything_is_read(tmp_path, capsys, below):
    (tmp_path / "notes").write_text("mine")
    command = ["finetune", "--pairs", tmp_path / "nowhere", "--output", tmp_path / "notes" / below]
    refused(capsys, *command, message="notes is a file")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_task_of_ones_own_is_imported(pairs, tmp_path, capsys, monkeypatch):
    (tmp_path / "my_colours.py").write_text(
        "from chopgrad_ns.refiner.tasks import Task, register\nclass Colours(Task):\n    name = 'my-colours'\n"
        "register(Colours())\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = ["finetune", "--pairs", pairs, "--output", tmp_path / "refiner", "--steps", "1", "--buckets", "5x16x16", "--task"]
    refused(capsys, *command, "no_such_module:x", message="'no_such_module' of --task no_such_module:x cannot be imported")
    try:
        main([str(argument) for argument in (*command, "my_colours:my-colours")])
        assert json.loads((tmp_path / "refiner" / "config.json").read_text())["task"] == "my-colours"
        assert "chopgrad refine VIDEO --task my-colours --refiner" in capsys.readouterr().out
    finally:
        tasks.TASKS.pop("my-colours", None)


def test_two_processes_of_the_command(pairs, tmp_path):
    """The main process writes, and both are done."""
    command = ["finetune", "--pairs", str(pairs), "--output", str(tmp_path), *QUICK, "--fsdp", "--hold-out", "1"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                           "chopgrad_ns.cli.main", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Refiner in") == 1 and Refiner.from_pretrained(tmp_path).pretrained
    alone = tmp_path / "alone"
    main([*command[:4], str(alone), *QUICK, "--hold-out", "1"])
    one, two = (Refiner.from_pretrained(folder).model.state_dict() for folder in (tmp_path, alone))
    assert max(float((value - two[name]).abs().max()) for name, value in one.items() if value.numel()) < 1e-3
