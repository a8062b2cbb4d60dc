"""A training on disk: what is trained, the optimizer and the averages as safetensors, the rest as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json
from chopgrad_ns.losses.weighted import parse_weights
from chopgrad_ns.refiner.backbones.folders import first_line
from chopgrad_ns.refiner.config import RefinerConfig
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


def load(folder: Path, terms: dict) -> tuple[dict, dict[str, Tensor]] | None:
    """What `save` left in a folder, on the CPU; None if nothing.

    Raises:
        UserError: where it is of another training than `terms` describe, or cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
        check_terms(about, terms, folder)
        return about, load_file(folder / about["file"])
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, first_line(error)) from error


def check_shapes(folder: Path, tensors: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Raise UserError where the weights that are trained are not all there, or have other shapes."""
    for name, value in trained.items():
        found = [tensors.get(f"{kind}/{name}") for kind in ("model", "average")]
        if any(there is None or there.shape != value.shape for there in found):
            raise _unreadable(folder, f"{name} is missing or has another shape")


def _unreadable(folder: Path, reason: str) -> UserError:
    return UserError(f"The progress of the training in {folder} cannot be read ({reason}); delete it to start anew.")


def terms_of(config: RefinerConfig, settings: FinetuneSettings, backprop: str, start: Mapping[str, Tensor],
             pairs: Sequence[Pair | StoredPair]) -> dict:
    """What must be the same for a training to be taken up again, as JSON.

    Args:
        start: all weights before the training.
    """
    return {"task": config.task, "config": json.loads(config.to_json()), "settings": asdict(settings), "backprop": backprop,
            "base": fingerprint(start), "pairs": fingerprint_of_pairs(pairs)}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes, some values of each, and the sum of all their bits: exact, so the same on every machine."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        bits = value.detach().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])
        found.update(f"{name} {tuple(value.shape)} {int(bits.sum(dtype=torch.int64))}".encode())
        found.update(bits.flatten()[:: max(1, bits.numel() // 16)].cpu().numpy().tobytes())
    return found.hexdigest()


def fingerprint_of_pairs(pairs: Sequence[Pair | StoredPair]) -> str:
    """Of names, sizes, and what pairs were made from (those in memory: some of their values)."""
    return hashlib.sha256(json.dumps([_told(pair) for pair in pairs], sort_keys=True).encode()).hexdigest()


def _told(pair: Pair | StoredPair) -> list:
    told = [pair.name, len(pair), *pair.size]
    if isinstance(pair, StoredPair):
        about = {name: value for name, value in pair.about.items() if name != "made"}  # when, and in how many seconds
        return [*told, about, (pair.folder / "pair.safetensors").stat().st_size]
    return [*told, fingerprint({"clean": pair.clean, "frames": pair.degraded.frames})]


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
