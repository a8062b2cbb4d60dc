"""The task in docs/refiner.md is run as it stands there."""

import re
from pathlib import Path

import torch

from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.tasks import TASKS
from tests.refiner.clips import pair

PAGE = Path(__file__).parents[2] / "docs" / "refiner.md"


def test_the_task_of_ones_own(tmp_path):
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "class Colours" in block)
    example = pair(frames=5, height=16, width=16)
    grey = example.clean.mean(dim=1, keepdim=True).expand_as(example.clean)
    try:
        names = {"pairs": [example], "output": tmp_path / "refiner", "grey": grey}
        exec(code, names)
        assert names["colours"].shape == example.clean.shape
        again = Refiner.from_pretrained(tmp_path / "refiner", task="colours")
        assert torch.equal(again(names["Clip"](grey)), names["colours"])
    finally:
        TASKS.pop("colours", None)
