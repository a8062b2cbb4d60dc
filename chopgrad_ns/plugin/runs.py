"""Run folders: an interrupted run is found again by giving the same command."""

import contextlib
import fcntl
import hashlib
import json
import sys
from pathlib import Path

import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json
from chopgrad_ns.plugin.drives import DriveDataParserConfig

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"


def refuse(error: UserError) -> None:
    """Print the one sentence of `error` and leave with exit code 2: `ns-train` itself would show a traceback."""
    CONSOLE.print(f"[bold red]Error:[/] {error}", soft_wrap=True, highlight=False)
    sys.exit(2)


class RunFolderMixin:
    """Trainer configuration that continues its own unfinished run.

    A run folder is named by its time, as nerfstudio does; but where the newest folder of the same experiment was made
    by the same settings and has no `metrics.json` yet, that one is taken up again. `--timestamp NAME` starts anew.
    """

    def set_timestamp(self) -> None:
        try:
            self._check()
        except UserError as error:
            refuse(error)
        if self.timestamp == "{timestamp}":
            unfinished = self._unfinished()
            if unfinished is not None:
                self.timestamp = unfinished
                CONSOLE.print(f"Continuing the unfinished run {self.get_base_dir()} (a new one: --timestamp NAME).")
                return
        super().set_timestamp()
        settings = _settings_of(self.get_base_dir())
        if settings not in (None, self._fingerprint()):
            refuse(UserError(f"{self.get_base_dir()} holds a run with other settings; name a new one with --timestamp NAME."))

    def save_config(self) -> None:
        super().save_config()
        write_json(self.get_base_dir() / RUN_FILE, {"settings": self._fingerprint()})

    def _check(self) -> None:
        """Refuse bad input before a folder is made for the run."""
        from chopgrad_ns.plugin.stages import check_settings

        scene = self.pipeline.datamanager.data or self.data
        if scene is None:
            raise UserError("No scene given; add --data FOLDER with a nerfstudio transforms.json or a COLMAP model, or with a "
                            "recorded drive and the name of its format.")
        check_settings(self.refine)
        if self.refine.splat is not None and isinstance(self.pipeline.datamanager.dataparser, DriveDataParserConfig):
            raise UserError(f"--refine.splat {self.refine.splat} holds what stands still alone, and a drive's actors and sky "
                            "would stay untrained; leave it out.")
        self.pipeline.datamanager.dataparser.data = Path(scene)
        self.pipeline.datamanager.dataparser.setup().check()

    def _fingerprint(self) -> str:
        """Of all settings that the result depends on: not of logging, the viewer, or how often is saved."""
        decisive = [str(self.data), self.refine, self.pipeline, self.optimizers, self.machine.seed]
        return hashlib.sha256(yaml.dump(decisive).encode()).hexdigest()

    def _unfinished(self) -> str | None:
        folder = self.get_base_dir().parent
        for run in sorted(folder.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True):
            if _settings_of(run.parent) == self._fingerprint():
                return None if (run.parent / METRICS_FILE).exists() else run.parent.name
        return None


def _settings_of(folder: Path) -> str | None:
    """Fingerprint of the settings that a run was started with, or None where no run is."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((folder / RUN_FILE).read_text())["settings"]
    return None


class RunLock:
    """Held while a process works in a run folder; the system frees it when the process ends, however it ends."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / ".lock", "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"Another process works in {folder}; wait for it, or start a new run with --timestamp NAME.") from error

    def release(self) -> None:
        self._file.close()
