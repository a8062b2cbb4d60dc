"""The work between training steps: pairs, fine-tuning, refined frames, the final report.

Every stage writes its result under `RUN/stages/` when it is complete and finds it there when the run is resumed.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from chopgrad_ns.data.pairs import fit_views, fold_pairs
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.views import Views
from chopgrad_ns.distill.rounds import RoundSettings, make_round
from chopgrad_ns.distill.store import PseudoObservations
from chopgrad_ns.errors import UserError, check_least
from chopgrad_ns.files import write_json
from chopgrad_ns.progress import ProgressLines
from chopgrad_ns.splat.gaussians import Gaussians


def check_settings(settings) -> None:
    """Refuse settings that could only fail later. `settings` is a `RefineSettings`."""
    least = {"longest_side": 32, "reconstruct_steps": 1, "ensemble": 1, "folds": 0, "fold_steps": 1, "sample_worlds": 0,
             "finetune_steps": 0, "rounds": 0, "round_steps": 0, "round_frames": 4, "references": 0}
    check_least(**{f"refine.{name}": (getattr(settings, name), smallest) for name, smallest in least.items()})
    if settings.every is not None and settings.every < 1:
        raise UserError(f"--refine.every is {settings.every}; give 1 or more.")
    if any(not math.isfinite(shift) or shift < 0 for shift in settings.lane_shifts) or not settings.lane_shifts:
        raise UserError(f"--refine.lane-shifts are {settings.lane_shifts}; give metres of 0 or more, one at least.")
    if settings.finetune_steps and not settings.folds and not settings.sample_worlds:
        raise UserError("There is nothing to fine-tune on; give --refine.folds or --refine.sample-worlds, or "
                        "leave --refine.finetune-steps out.")
    if settings.finetune_steps:
        from chopgrad_ns.refiner import training_losses

        training_losses(settings.losses)
    if settings.splat is not None and not settings.schedule.total_steps:
        raise UserError("With --refine.splat and no steps of --refine.rounds and --refine.round-steps there is nothing to train; "
                        "give some, or refine with chopgrad refine.")
    if settings.splat is not None:
        Gaussians.load(settings.splat)
    if settings.refiner != "tiny":
        from chopgrad_ns.refiner import Refiner

        Refiner.from_pretrained(settings.refiner, task="artifact-removal")


class Clock:
    """Seconds spent in each stage, kept across interruptions."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self._stage, self._since = "", time.monotonic()

    def enter(self, stage: str) -> None:
        """Book the time since the last call on the stage left, and go on with `stage`."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._since, 1)
            write_json(self.path, self.seconds)
        self._stage, self._since = stage, now


class Stages:
    """What `RefineTrainer` does between steps. Sees training views only; evaluation is in `report`, at the very end."""

    def __init__(self, settings, folder: Path, pipeline, breathe: Callable[[], None]):
        self.settings, self.folder, self.pipeline = settings, folder, pipeline
        self.work = folder / "stages"
        self.breathe = breathe
        self.current_round = 0
        self.clock = Clock(self.work / "seconds.json")
        self.clock.enter("reconstruct")
        # Not an attribute of the pipeline: nn.Module would put the refiner's weights into every checkpoint.
        self._refiner = None
        self._others: list[Gaussians] | None = None
        self._views: Views | None = None

    @property
    def views(self) -> Views:
        if self._views is None:
            self._views = self.pipeline.datamanager.training_views()
        return self._views

    def is_resuming(self, round_index: int) -> bool:
        """Whether the frames of this round are already on disk."""
        return self._round_file(round_index).exists()

    def enter_round(self, round_index: int) -> None:
        """Prepare everything that training in `round_index` (1…) needs."""
        self.keep_plain_splat()
        path = self._round_file(round_index)
        if not path.exists():
            refine, others = self.refiner(), self.others()
            self.clock.enter("refine")
            CONSOLE.print(f"Round {round_index} of {self.settings.rounds}: refining views beside the photos.")
            settings = RoundSettings(self.settings.round_frames, self.settings.reach, self.settings.references,
                                     self.settings.lane_shifts)
            seen = make_round([self.pipeline.model.scene(), *others], refine, self.views, round_index, self.settings.rounds,
                              settings)
            seen.save(path)
        self.pipeline.datamanager.pseudo = PseudoObservations.load(path)
        self.current_round = round_index
        self.clock.enter("distill")

    def finish(self) -> None:
        """Measure and show the result: `metrics.json` is the last thing a run writes."""
        from chopgrad_ns.plugin.report import write_report

        self.keep_plain_splat()
        refine, others = self.refiner(), self.others()
        self.clock.enter("report")
        self.pipeline.model.save_scene(self.folder / "scene")
        write_report(self.folder, self.pipeline, self.views, others, refine, self.settings, self.clock)

    def keep_plain_splat(self) -> None:
        """Remember the splat as reconstructed, for `rgb_before` and the report."""
        model = self.pipeline.model
        if model.before() is None:
            model.remember_before()
            self.work.mkdir(parents=True, exist_ok=True)
            model.before().save(self.work / "splat_before.ply")

    def others(self) -> list[Gaussians]:
        """The ensemble's splats but the one that is trained here; fits them now if that has not been done."""
        if self._others is None:
            self._others = [] if self.views.rig is not None or self.settings.splat is not None else [
                self._other(number) for number in range(1, self.settings.ensemble)]
        return self._others

    def _other(self, number: int) -> Gaussians:
        path = self.work / f"ensemble-{number}.ply"
        if not path.exists():
            self.clock.enter("ensemble")
            CONSOLE.print(f"Fitting splat {number + 1} of {self.settings.ensemble}.")
            settings = self.pipeline.model.config.fit_settings(self.settings.reconstruct_steps)
            splat = fit_views(self.views, replace(settings, seed=settings.seed + number), self._progress(f"splat {number + 1}"))
            path.parent.mkdir(parents=True, exist_ok=True)
            splat.save(path)
        # Read again also when it was just made: a file rounds, and whether the run was interrupted must not show.
        return Gaussians.load(path)

    def refiner(self) -> Callable[..., Tensor]:
        """The fine-tuned refiner; fine-tunes it now if that has not been done."""
        if self._refiner is None:
            self._refiner = self._prepare_refiner()
        return self._refiner

    def _prepare_refiner(self):
        from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune

        done = self.work / "refiner"
        if (done / "config.json").exists():
            return Refiner.from_pretrained(str(done), task="artifact-removal")
        refiner = Refiner.from_pretrained(self.settings.refiner, task="artifact-removal")
        if self.settings.finetune_steps:
            pairs = self.pairs()
            self.clock.enter("finetune")
            CONSOLE.print(f"Fine-tuning the refiner on {len(pairs)} pairs.")
            finetune(refiner, pairs, FinetuneSettings(steps=self.settings.finetune_steps, losses=self.settings.losses),
                     progress=self._progress("finetune"), checkpoint_dir=self.work / "finetune")
        refiner.save(done)
        return refiner

    def pairs(self) -> list[StoredPair]:
        """k-fold pairs of the training views and pairs of sample worlds, made once."""
        from chopgrad_ns.sim.pairs import cached_sample_pairs

        self.clock.enter("pairs")
        settings = self.pipeline.model.config.fit_settings(self.settings.fold_steps)
        marker = self.work / "pairs" / "complete.json"
        progress_of = functools.cache(self._progress)

        def report(name: str, *tick) -> None:
            progress_of(name)(*tick)

        if not marker.exists():
            names = []
            for pair in fold_pairs(self.views, self.settings.folds, settings, self.settings.references, report):
                save_pair(pair, marker.parent / pair.name)
                names.append(pair.name)
            write_json(marker, {"pairs": names})
        # From disk also when they were made just now: they are rounded there, and an interruption must not show.
        pairs = [StoredPair(marker.parent / name) for name in json.loads(marker.read_text())["pairs"]]
        return pairs + cached_sample_pairs(self.settings.sample_worlds, settings, self.settings.references, report)

    def _progress(self, name: str) -> Callable[..., None]:
        """Report a stage's steps now and then, with the time left, and let the viewer draw between steps."""
        lines = ProgressLines(f"  {name}", CONSOLE.print)

        def report(*tick) -> None:
            self.breathe()
            lines(*tick)

        return report

    def _round_file(self, round_index: int) -> Path:
        return self.work / f"round-{round_index}.safetensors"
