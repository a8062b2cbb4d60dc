"""A training on disk: what is trained, the optimizer and the averages as safetensors, the rest as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json
from chopgrad_ns.losses.weighted import parse_weights
from chopgrad_ns.refiner.finetune.buckets import parse_buckets
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings, bytes_of

FILE = "progress.json"
FREE = ("checkpoint_every", "validate_every", "fsdp")
"""Settings that do not change what comes of a training."""


def save(folder: Path, tensors: Mapping[str, Tensor], about: dict) -> None:
    """Write the tensors of a step, and last the JSON that makes them count; older ones are removed then."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{about['step']}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / (name + ".part"))
    os.replace(folder / (name + ".part"), folder / name)
    write_json(folder / FILE, {"file": name, **about})
    for old in folder.glob("step-*.safetensors*"):
        if old.name != name:
            old.unlink()


def load(folder: Path, terms: dict, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict, dict[str, Tensor]] | None:
    """What `save` left in a folder, on the CPU; None if nothing.

    Args:
        shapes: by name, of the weights that are trained.

    Raises:
        UserError: where it is of another training than `terms` describe, or cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
        check_terms(about, terms, folder)
        tensors = load_file(folder / about["file"])
        for name, shape in shapes.items():
            if any(tuple(tensors[f"{kind}/{name}"].shape) != shape for kind in ("model", "average")):
                raise ValueError(f"{name} has another shape")
        return about, tensors
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The progress of the training in {folder} cannot be read ({reason}); delete it to start "
                        "anew.") from error


def terms_of(config, settings: FinetuneSettings, backprop: str, frozen: Mapping[str, Tensor],
             pairs: Sequence[Pair | StoredPair]) -> dict:
    """What must be the same for a training to be taken up again, as JSON."""
    about = json.loads(config.to_json())
    shapes = [(pair.name, len(pair), *pair.size) for pair in pairs]
    return {"task": config.task, "config": about, "settings": asdict(settings), "backprop": backprop,
            "base": _fingerprint(frozen), "pairs": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()}


def _fingerprint(frozen: Mapping[str, Tensor]) -> str:
    """Of weights that are not trained, and so not in a checkpoint: a hash of names, shapes and some values of each."""
    found = hashlib.sha256()
    for name, value in sorted(frozen.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return found.hexdigest()


def check_terms(about: dict, terms: dict, folder: Path) -> None:
    """Raise UserError where a training was started with other terms, naming what differs."""
    if about["task"] != terms["task"]:
        raise UserError(f"The training in {folder} is for {about['task']}, not {terms['task']}; give another folder for this "
                        "one.")
    if about["config"] != terms["config"]:
        names = _differing(about["config"], terms["config"])
        raise UserError(f"The training in {folder} is of another refiner ({', '.join(names)}); give the same base, or another "
                        "folder.")
    names = _differing(_parsed(about["settings"]), _parsed(terms["settings"]))
    names += ["backprop"] if about["backprop"] != terms["backprop"] else []
    if names:
        raise UserError(f"The training in {folder} was started with other settings ({', '.join(names)}); use the same, or "
                        "another folder.")
    for name, what in (("base", "from another base"), ("pairs", "on other pairs")):
        if about[name] != terms[name]:
            raise UserError(f"The training in {folder} was started {what}; use the same, or another folder.")


def _differing(one: dict, two: dict) -> list[str]:
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def _parsed(settings: dict) -> dict:
    """Settings by what they mean, not how they were written."""
    parsed = {name: value for name, value in settings.items() if name not in FREE}
    parsed["losses"] = {name: weight for name, weight in parse_weights(settings["losses"]).items() if weight.value}
    parsed["buckets"] = parse_buckets(settings["buckets"])
    if settings["memory_budget"] is not None:
        parsed["memory_budget"] = bytes_of(settings["memory_budget"])
    return parsed


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}


def frozen_of(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The weights of a model that are not trained."""
    return {name: value for name, value in model.named_parameters() if name not in trained}
