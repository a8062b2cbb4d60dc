"""Two processes train as one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.refiner import two_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By case: what one process gives, and what each of two does."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "tests.refiner.two_processes", str(both)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    one = two_processes.cases(alone, fsdp=False)
    shown, _ = started.communicate(timeout=400)
    assert started.returncode == 0, shown
    return {"one": one} | {rank: {path.stem.rpartition("-")[0]: load_file(path) for path in both.glob(f"*-{rank}.safetensors")}
                           for rank in (0, 1)}


def apart(one, two) -> float:
    """Largest relative distance of tensors of one name."""
    assert set(one) == set(two)
    return max(float((one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-12)) for name in one)


@pytest.mark.parametrize("strategy", two_processes.STRATEGIES)
def test_gradients_of_two_processes_are_those_of_one(found, strategy):
    case = f"gradients-{strategy}"
    assert apart(found["one"][case], found[0][case]) < 1e-6
    assert apart(found[0][case], found[1][case]) == 0


def test_gradients_differ_where_they_are_not_averaged(found):
    assert apart(found[0]["alone"], found[1]["alone"]) > 0.1
    assert apart(found["one"]["gradients-exact"], found[0]["alone"]) > 0.1


def distance(one, two) -> float:
    assert set(one) == set(two)
    return max(float((one[name] - two[name]).abs().max()) for name in one if one[name].numel())


@pytest.mark.parametrize("case", ["full", "fsdp", "fsdp-lora"])
def test_training_of_two_processes_is_that_of_one(found, case):
    """With the transformer whole in each process, and in parts (FSDP); interrupted and taken up again."""
    start = two_processes.refiner().model.state_dict()
    assert distance(found["one"][case], found[0][case]) < 1e-5
    assert distance(found[0][case], found[1][case]) == 0
    changed = [name for name, value in found[0][case].items() if name not in start or not torch.equal(value, start[name])]
    assert any("transformer" in name for name in changed)


def test_parts_of_weights_may_be_held_in_bfloat16(found):
    """Frozen ones, beside those of LoRA in float32; what rounding was lost is back in the end."""
    first, second = found[0]["bfloat16"], found[1]["bfloat16"]
    start = two_processes.refiner(torch.float32).model.state_dict()
    assert distance(first, second) == 0 and all(value.isfinite().all() for value in first.values())
    frozen = [name for name in first if "base_layer.weight" in name]
    assert frozen and all(torch.equal(first[name], start[name.replace(".base_layer", "")]) for name in frozen)
    assert any(value.any() for name, value in first.items() if "lora_B" in name)


def test_processes_agree_on_the_time(found):
    """That decides the learning rate, and the end."""
    start = two_processes.refiner().model.state_dict()
    assert distance(found[0]["timed"], found[1]["timed"]) == 0 and distance(start, found[0]["timed"]) > 0


def test_what_one_process_leaves_out_both_do(found):
    one, first, second = (found[where]["skipping"] for where in ("one", 0, 1))
    assert 0 < int(one["skipped"]) < 6 and one["skipped"] == first["skipped"] == second["skipped"]
    assert distance(first, second) == 0 and distance(one, first) < 1e-3
    assert all(value.isfinite().all() for value in first.values())
