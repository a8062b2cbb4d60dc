"""Work side by side: everything is done, whoever dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from chopgrad_ns.data.parallel import run_side_by_side
from chopgrad_ns.errors import UserError
from tests.data.work import die_for_two, die_once, square


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_is_done_and_errors_of_users_are_outcomes(workers):
    outcomes = dict(run_side_by_side(square, [3, -1, 4, 5], workers))
    assert sorted(outcomes) == [0, 1, 2, 3] and isinstance(outcomes[1], UserError)
    assert [outcomes[index][0] for index in (0, 2, 3)] == [9, 16, 25]
    makers = {outcomes[index][1] for index in (0, 2, 3)}
    assert (makers == {os.getpid()}) == (workers == 1)


def test_nothing_to_do():
    assert not list(run_side_by_side(square, [], 2))


def test_work_of_a_worker_that_dies_is_done_by_another(tmp_path):
    outcomes = dict(run_side_by_side(die_once, [(number, str(tmp_path)) for number in range(5)], 2))
    assert outcomes == {number: number for number in range(5)}
    assert (tmp_path / "2").read_text() == "begun\nbegun\n"


def test_a_piece_that_always_kills_its_worker_stops_no_other():
    outcomes = dict(run_side_by_side(die_for_two, [1, 2, 3, 4, 5, 6, 7], 2))
    assert isinstance(outcomes.pop(1), UserError)
    assert outcomes == {index: index + 1 for index in (0, 2, 3, 4, 5, 6)}


def test_workers_have_one_thread_even_where_torch_was_imported_before(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import torch\nfrom chopgrad_ns.data.parallel import run_side_by_side\nfrom tests.data.work import threads\n"
                      "if __name__ == '__main__':\n    print(sorted(dict(run_side_by_side(threads, [1, 2], 2)).values()))\n")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    environment.pop("OMP_NUM_THREADS", None)
    shown = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=100)
    assert shown.stdout.strip() == "[1, 1]", shown.stderr


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, how):
    code = ("from chopgrad_ns.data.parallel import run_side_by_side\nfrom tests.data.work import go_on\n"
            f"if __name__ == '__main__':\n    list(run_side_by_side(go_on, [{str(tmp_path)!r}] * 2, 2))\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.getcwd()},
                              stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("[0-9]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [int(path.name) for path in tmp_path.glob("[0-9]*")]
    assert len(workers) == 2 and all(map(alive, workers))
    parent.send_signal(how)
    parent.wait(timeout=60)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_no_such_cluster():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no Ray cluster at 127.0.0.1:9"):
        list(run_side_by_side(square, [1], 1, ray="127.0.0.1:9"))
