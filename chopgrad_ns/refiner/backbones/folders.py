"""Backbones from where they are published: Hugging Face ids, diffusers folders, and folders of DOVE's kind.

A diffusers folder has a sub-folder for each part (`vae`, `transformer`, `scheduler`, …), each with its `config.json` and
weights, and `model_index.json` beside them. DOVE's releases are of this kind, with prompt embeddings beside the folder;
where a training left the transformer alone, `base` says where the other parts are. Only safetensors are read.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from torch import nn

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.backbones.base import Backbone
from chopgrad_ns.refiner.backbones.families import FAMILIES
from chopgrad_ns.refiner.backbones.wan import Wan

EXAMPLE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
DESCRIPTIONS = ("model_index.json", "*/config.json", "*/*_config.json")
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load(source: str | Path, timestep: int | None = None, dtype: torch.dtype | None = None,
         base: str | Path | None = None) -> Backbone:
    """A published backbone with its weights, on the CPU.

    Args:
        source: a folder, or a Hugging Face id; what is needed of an id is downloaded into the usual cache.
        timestep: what it will be asked for; of Wan2.2 A14B's two experts that one is loaded which is for it. None: the
            family's default.
        dtype: of the weights (Wan's transformer keeps norms and the embedding of time in 32 bits); None: 32 bits.
        base: a folder or id with the parts that `source` lacks.

    Raises:
        UserError: where there is nothing, or nothing complete, or no model of a supported kind.
    """
    folder = fetched(source, DESCRIPTIONS)
    other = None if base is None else fetched(base, DESCRIPTIONS)
    expert = _expert(folder, timestep)
    places = {name: _part(folder, other, name, source, base) for name in ("vae", expert)}
    family = _family(places[expert][0])
    config = {name: read_json(place / "config.json") for name, (place, _) in places.items()}
    classes = {"vae": family.vae_class, expert: family.transformer_class}
    for name, cls in classes.items():
        if config[name].get("_class_name") != cls.__name__:
            raise UserError(f"{places[name][0]} holds a {config[name].get('_class_name')}, where {cls.__name__} goes with the "
                            "transformer; give a folder whose parts belong together.")
    scheduler = _scheduler(folder, other)
    try:
        family.check(*(_complete(cls, config[name]) for name, cls in classes.items()), scheduler)
    except ValueError as error:
        raise UserError(f"{source} cannot be used: {error}.") from error
    for name, (_, origin) in places.items():
        fetched(origin, [f"{name}/*.json", f"{name}/*.safetensors"])
    parts = [_weights(cls, places[name][0], dtype) for name, cls in classes.items()]
    return family(*parts, scheduler).eval()


def fetched(source: str | Path, patterns: Sequence[str]) -> Path:
    """The folder `source`, or the local copy of a Hugging Face model, with the files that the patterns name."""
    folder, name = Path(source), str(source)
    if name and folder.is_dir():
        return folder
    if folder.is_file() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name} is neither a folder nor a Hugging Face id (owner/name); give a folder with the sub-folders "
                        f"vae and transformer, an id such as {EXAMPLE}, or \"tiny\" for the embedded refiner.")
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise UserError(f"{name} is only given to those who accepted its terms; accept them on its page, log in with "
                        "\"hf auth login\" and try again.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"There is neither a folder {name} nor a public Hugging Face model of that name; give a folder, or an "
                        f"id such as {EXAMPLE}.") from error
    except Exception as error:  # networks fail in ways of several libraries, with no class in common
        raise UserError(f"{name} is no folder here and could not be fetched from Hugging Face ({first_line(error)}); run \"hf "
                        f"download {name} --local-dir FOLDER\" where there is a network and give FOLDER instead.") from error


def _part(folder: Path, base: Path | None, name: str, source: str | Path,
          base_source: str | Path | None) -> tuple[Path, str | Path]:
    """Where a part lies, and the source that it is of. A transformer may be the folder itself."""
    places = [(folder / name, source)]
    if name.startswith("transformer"):
        places.append((folder, source))
    if base is not None:
        places.append((base / name, base_source))
    for place, origin in places:
        if (place / "config.json").is_file():
            return place, origin
    raise UserError(f"{folder} has no {name}/config.json; give a folder with the sub-folders vae and transformer (\"hf "
                    "download ID --local-dir FOLDER\" makes one), or a base that has what it lacks.")


def _family(folder: Path) -> type[Backbone]:
    name = read_json(folder / "config.json").get("_class_name")
    for family in FAMILIES.values():
        if family.transformer_class.__name__ == name:
            return family
    known = " and ".join(family.transformer_class.__name__ for family in FAMILIES.values())
    raise UserError(f"{folder} holds a {name}, which is not supported; give a model whose transformer is one of {known}.")


def _expert(folder: Path, timestep: int | None) -> str:
    """The sub-folder of the transformer that is for a timestep: Wan2.2 A14B has a second one for little noise."""
    index = folder / "model_index.json"
    boundary = read_json(index).get("boundary_ratio") if index.is_file() else None
    asked = Wan.default_timestep if timestep is None else timestep
    return "transformer_2" if boundary is not None and asked < boundary * 1000 else "transformer"


def _scheduler(folder: Path, base: Path | None) -> dict:
    for place in (folder, base):
        if place is not None and (place / "scheduler" / "scheduler_config.json").is_file():
            content = read_json(place / "scheduler" / "scheduler_config.json")
            return {name: value for name, value in content.items() if not name.startswith("_")}
    return {}


def _complete(cls: type[nn.Module], config: dict) -> dict:
    """A class's arguments: those of a config, for the others the defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls.__init__).parameters.items()}
    return {**defaults, **config}


def read_json(path: Path) -> dict:
    """A JSON object. Raises UserError where the file is cut short or something else."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); copy or fetch it again.") from error


def _weights(cls: type[nn.Module], folder: Path, dtype: torch.dtype | None) -> nn.Module:
    """A part with its weights, all of them and no others; never more than one copy in memory."""
    _refuse_pickles(folder)
    try:
        model, told = cls.from_pretrained(folder, dtype=dtype or torch.float32, use_safetensors=True, local_files_only=True,
                                          output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} are damaged, incomplete or of another architecture than its config.json "
                        f"says ({first_line(error)}); copy or fetch them again.") from error
    for what in ("missing_keys", "unexpected_keys"):
        if told[what]:
            raise UserError(f"The weights in {folder} are of another architecture than its config.json says "
                            f"({len(told[what])} {what.replace('_', ' ')}, {min(told[what])} among them); copy or fetch both "
                            "again.")
    return model


def _refuse_pickles(folder: Path) -> None:
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        names = [str(name) for name in read_json(index).get("weight_map", {}).values()]
    else:
        names = [] if (folder / WEIGHTS).is_file() else [file.name for file in folder.iterdir()]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise UserError(f"{folder / min(pickles)} is a pickle, which can run anything on this machine and is not read; save "
                        f"the model again with save_pretrained(…, safe_serialization=True), which gives {WEIGHTS}.")


def first_line(error: Exception) -> str:
    """What an error says first, for a sentence of our own."""
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__
