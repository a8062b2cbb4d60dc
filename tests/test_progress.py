"""Progress: what a line tells, when there is one, and the bar where there is a terminal."""

import re

import pytest

from chopgrad_ns.cli.progress import bar
from chopgrad_ns.progress import ProgressLines, clock, of_parts

LINE = re.compile(r"fold-0: (\d+) of 4 steps, loss (\d), [\d.]+ steps/s(, \d:\d\d left)?$")


def test_a_line_tells_step_state_pace_and_time_left():
    lines = []
    report = ProgressLines("fold-0", lines.append, seconds=0.0)
    for step in range(1, 5):
        report(step, 4, lambda: f"loss {step}")
    told = [LINE.match(line).groups() for line in lines]
    assert [(number, note) for number, note, _ in told] == [(str(step), str(step)) for step in range(2, 5)]
    assert all(left for _, _, left in told[:-1]) and told[-1][2] is None


def test_time_left_follows_from_the_pace():
    seconds, lines = [0.0], []
    report = ProgressLines("fit", lines.append, now=lambda: seconds[0])
    for step in range(101, 401):  # taken up after a hundred steps
        report(step, 400)
        seconds[0] += 0.5
    assert lines[0] == "fit: 121 of 400 steps, 2.0 steps/s, 2:20 left"
    assert lines[-1] == "fit: 400 of 400 steps, 2.0 steps/s" and len(lines) == 15
    seconds[0] += 100  # something else in between does not count
    report(1, 400)
    seconds[0] += 10
    report(6, 400)
    assert lines[-1] == "fit: 6 of 400 steps, 0.5 steps/s, 13:08 left"


def test_short_work_is_silent_and_is_not_asked_how_it_goes():
    lines = []
    report = ProgressLines("fit", lines.append)
    for step in range(1, 5):
        report(step, 4, lambda: pytest.fail("nobody asked"))
    assert lines == []


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 59.6, 75, 3725)] == ["0:00", "1:00", "1:15", "1:02:05"]


def test_parts_add_up():
    told = []
    report = of_parts(lambda step, steps, note: told.append((step, steps, note())), parts=2)
    for name in ("fold-0", "room-0"):
        for step in (1, 5):
            report(name, step, 5, lambda: "loss 1")
    assert told == [(1, 10, "fold-0, loss 1"), (5, 10, "fold-0, loss 1"), (6, 10, "room-0, loss 1"),
                    (10, 10, "room-0, loss 1")]


def test_no_bar_but_lines_without_a_terminal(capsys):
    with bar("fitting", seconds=0.0) as report:
        report(1, 3)
        report(2, 3, lambda: "loss 1")
    assert re.fullmatch(r"fitting: 2 of 3 steps, loss 1, [\d.]+ steps/s, 0:00 left\n", capsys.readouterr().out)


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with bar("fitting") as report:
        report(20, 40, lambda: "loss 7")
    shown = capsys.readouterr().out
    assert "fitting" in shown and "20/40" in shown and "loss 7" in shown
