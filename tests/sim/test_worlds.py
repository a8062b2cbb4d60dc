"""Many worlds in one command: each once, none missing, whatever interrupts it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chopgrad_ns.cli.main import main
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.world import exposure_of
from chopgrad_ns.sim.worlds import make_worlds, orders
from tests.cli.refusals import refused

TINY = ["--frames", "2", "--width", "32", "--height", "24"]


def finished(folder: Path) -> dict[str, int]:
    """Finished scenes and when each was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/world.json")
            if not path.parent.name.endswith(".part")}


def test_killed_and_resumed(tmp_path, capsys):
    """SIGKILL in the middle leaves no process and no half scene; the same command makes what is missing, once."""
    command = ["sample", "objects", str(tmp_path / "worlds"), "--scenes", "4", "--seed", "3", "--workers", "2", *TINY]
    process = subprocess.Popen([sys.executable, "-m", "chopgrad_ns.cli.main", *command], stdout=subprocess.DEVNULL)
    began = time.monotonic()
    while not (before := finished(tmp_path / "worlds")) and time.monotonic() < began + 120:
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = psutil.wait_procs(workers, timeout=20)[1]
    assert len(workers) >= 2 and not left, "no workers are left behind"
    before = finished(tmp_path / "worlds")
    assert 1 <= len(before) < 4
    main([*command, "--workers", "1"])
    after = finished(tmp_path / "worlds")
    names = {f"objects-{seed}" for seed in range(3, 7)}
    assert set(after) == names == {path.name for path in (tmp_path / "worlds").iterdir()}
    assert all(after[name] == when for name, when in before.items()), "finished ones are kept"
    shown = capsys.readouterr().out
    assert f"4 scenes in {tmp_path / 'worlds'}, {4 - len(before)} of them made now" in shown
    about = json.loads((tmp_path / "worlds" / "objects-5" / "world.json").read_text())
    assert (about["seed"], about["frames"], about["width"]) == (5, 2, 32)
    assert make_worlds(tmp_path / "worlds", orders("objects", 4, 3, frames=2, width=32, height=24)) == 0
    again = ["sample", "objects", tmp_path / "worlds", "--scenes", "4", "--seed", "3"]
    refused(capsys, *again, message="other settings (2 frames")
    refused(capsys, *again, *TINY, "--exposure-change", "0.2", message="objects-3 was made with other settings")


def test_streets_that_end_too_soon_are_named_and_left_out(tmp_path, capsys):
    """Seed 2 has way for 100 frames, and seed 3 for 84."""
    command = ["sample", "street", str(tmp_path / "worlds"), "--layout", "nerfstudio", "--frames", "86", "--width", "16",
               "--height", "16"]
    for made in (1, 0):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--seed", "2", "--scenes", "2"])
        shown = capsys.readouterr()
        named, last = shown.err.strip().split("\n")
        assert caught.value.code == 3 and "street-3 is left out: " in named and "ends after 84 frames" in named
        assert "1 of 2 scenes were left out" in last and f"1 scenes in {tmp_path / 'worlds'}, {made} of them" in shown.out
        assert [path.name for path in (tmp_path / "worlds").iterdir()] == ["street-2"] and "/street-2" in shown.out
    command[2] = str(tmp_path / "new")
    refused(capsys, *command, "--seed", "3", "--scenes", "1", message="ends after 84 frames")
    assert not (tmp_path / "new").exists()


def test_exposures_are_not_mixed(tmp_path):
    """A scene counts as made only where its seed and the option asked for now make the same exposure."""
    sizes = {"frames": 2, "width": 16, "height": 16}
    drawn = {seed: exposure_of("objects", seed).kind for seed in range(20)}
    changing = next(seed for seed in drawn if drawn[seed] == "drift")
    steady = next(seed for seed in drawn if drawn[seed] == "constant")
    for seed, had, same in ((changing, None, {None}), (changing, 0.0, {0.0}), (changing, 0.2, {0.2}), (steady, None, {None, 0.0})):
        folder = tmp_path / f"{had}-{seed}"
        assert make_worlds(folder, orders("objects", 1, seed, exposure_change=had, **sizes)) == 1
        for asked in (None, 0.0, 0.2, 0.3):
            again = orders("objects", 1, seed, exposure_change=asked, **sizes)
            if asked in same:
                assert make_worlds(folder, again) == 0
            else:
                with pytest.raises(UserError, match=f"objects-{seed} was made with other settings"):
                    make_worlds(folder, again)


def test_orders_take_kinds_in_turn():
    names = [order.name for order in orders("all", 5, 10)]
    assert names == ["room-10", "courtyard-11", "objects-12", "street-13", "closeup-14"]
    assert [order.name for order in orders("street", 2)] == ["street-0", "street-1"]


def test_refusals(tmp_path, capsys):
    refused(capsys, "sample", "all", tmp_path / "new", message="--scenes N")
    refused(capsys, "sample", "room", tmp_path / "new", "--scenes", "0", message="--scenes is 0")
    refused(capsys, "sample", "room", tmp_path / "new", "--scenes", "2", "--workers", "0", message="--workers 0")
    refused(capsys, "sample", "room", tmp_path / "new", "--seed", "-1", message="--seed is -1")
    refused(capsys, "sample", "all", tmp_path / "new", "--scenes", "2", "--frames", "1", message="1 frames")
    refused(capsys, "sample", "room", tmp_path / "new", "--width", "8", message="2 frames of 16×16")
    (tmp_path / "worlds" / "street-1").mkdir(parents=True)
    refused(capsys, "sample", "street", tmp_path / "worlds", "--scenes", "2", message="is in the way")
    assert {path.name for path in tmp_path.iterdir()} == {"worlds"} and len(list((tmp_path / "worlds").iterdir())) == 1


def test_folders_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "new", "/proc/new", tmp_path / ("long" * 100)):
        refused(capsys, "sample", "objects", folder, *TINY, message="cannot be written (")
    refused(capsys, "sample", "objects", tmp_path / "file", *TINY, message="not an empty folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "new", "/proc/new", tmp_path / ("long" * 100)):
        refused(capsys, "sample", "objects", folder, "--scenes", "2", *TINY, message="cannot be written (")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("change", ["nan", "inf", "-1", "11"])
def test_exposure_changes_that_make_no_sense(tmp_path, capsys, change):
    refused(capsys, "sample", "objects", tmp_path / "new", "--exposure-change", change, message="give 0 to 10 stops")
