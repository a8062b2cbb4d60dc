"""Fine-tuning with pixel losses through the causal decoder, over whole trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from chopgrad_ns.chopgrad import Backprop, Exact
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.finetune.checkpoint import fingerprint_of_pairs
from chopgrad_ns.refiner.finetune.log import Log
from chopgrad_ns.refiner.finetune.run import Run
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings
from chopgrad_ns.refiner.finetune.validation import Validation, film_writer
from chopgrad_ns.refiner.refiner import Refiner
from chopgrad_ns.refiner.tasks import TASKS


def finetune(refiner: Refiner, pairs: Sequence[Pair | StoredPair], settings: FinetuneSettings | None = None,
             progress: Callable[[int, int], None] | None = None, checkpoint_dir: Path | None = None,
             backprop: Backprop = Exact(), validation: Sequence[Pair | StoredPair] = (),
             log_dir: Path | None = None) -> dict[str, float]:
    """Train `refiner` in place on `pairs`.

    With `checkpoint_dir`, progress is kept there and taken up again: the examples of a step, and whatever else is drawn
    in it, follow from the seed and its number, so an interrupted training ends where an uninterrupted one does, by the bit
    (unless `max_seconds` decides). Steps whose loss or gradient is not finite are skipped; ten in a row raise UserError.
    What cannot be had or done is refused before anything else, another training's progress too: that goes on only from the
    same weights, on the same pairs. Started by `accelerate launch` or `torchrun`, each process
    takes its share of each batch, and all end with the same weights.

    Args:
        progress: called after each step with its number and that of all steps.
        backprop: how far the pixel loss is propagated through the decoder; `settings.memory_budget` decides in its place.
        validation: pairs not trained on, refined whole before, every `validate_every` steps, and after.
        log_dir: for `tensorboard` and, with `validation`, films in `validation` of clips as they were, as refined and as
            they should be.

    Returns:
        `loss`, the mean over the last tenth of the steps; `skipped`, the number of steps left out; and with
        `validation` the PSNR in dB of the degraded clips, `psnr_render`, and of the refiner as given and as
        trained, `psnr_before` and `psnr_after`; so for `ssim` and `perceptual`.
    """
    settings = settings or FinetuneSettings()
    settings.check()
    check_pairs(pairs, refiner)
    if validation:
        check_pairs(validation, refiner)
    judge = Validation(validation, refiner.task, settings)
    result, run = {}, Run(refiner, pairs, settings, backprop, None if checkpoint_dir is None else Path(checkpoint_dir))
    if validation:
        result |= _before(judge, refiner, run)
    with run:
        resumed = run.resume()
        if resumed and run.finished and run.here.is_main_process:
            print(f"The training in {checkpoint_dir} has ended already, after {run.step} steps; this is its result.")
        if settings.memory_budget is not None and not resumed:
            run.plan()
        log = Log(Path(log_dir) / "tensorboard", run.step + 1) if log_dir is not None and run.here.is_main_process else None
        while not run.finished:
            run.train_step()
            if log is not None:
                log.scalars(run.step, run.noted)
            if validation and settings.validate_every and run.step % settings.validate_every == 0 and not run.finished:
                with run.averaged():
                    _validate(judge, refiner, run, log, log_dir)
            if progress is not None:
                progress(run.step, settings.steps)
            if checkpoint_dir is not None and (run.finished or run.step % settings.checkpoint_every == 0):
                run.save()
        run.keep_average()
    refiner.pretrained = True
    refiner.trained |= {name for name in run.trained if name.startswith("backbone.")}
    recent = run.losses[-max(len(run.losses) // 10, 1):]
    result |= {"loss": sum(recent) / max(len(recent), 1), "skipped": run.skipped}
    if validation:
        with run.refining():
            result |= {f"{name}_after": value for name, value in _validate(judge, refiner, run, log, log_dir).items()}
    if log is not None:
        log.close()
    return result


def _before(judge: Validation, refiner: Refiner, run: Run) -> dict[str, float]:
    """Metrics of the degraded clips and of the refiner as given; a training that is taken up again knows them."""
    judged = fingerprint_of_pairs(judge.pairs)
    if run.before.get("pairs") != judged:
        with run.refining():
            before = judge.measure(refiner)
        run.before = {"pairs": judged, "values": {f"{name}_render": value for name, value in judge.degraded().items()} | {
            f"{name}_before": value for name, value in before.items()}}
    return run.before["values"]


def _validate(judge: Validation, refiner: Refiner, run: Run, log: Log | None, log_dir: Path | None) -> dict[str, float]:
    """Metrics of the refiner as it is; the main process writes them, a picture and the films down."""
    if log is None:
        return judge.measure(refiner)
    write, shown = film_writer(Path(log_dir) / "validation"), []

    def show(name: str, frames) -> None:
        write(name, frames)
        if not shown:
            shown.append(name)
            log.picture(run.step, "degraded, refined, clean", frames[len(frames) // 2])

    found = judge.measure(refiner, show)
    log.scalars(run.step, {f"validation/{name}": value for name, value in found.items()})
    return found


def check_pairs(pairs: Sequence[Pair | StoredPair], refiner: Refiner) -> None:
    """Raise UserError where there are no pairs, or one is of another task than the refiner."""
    if not pairs:
        raise UserError(f"There are no pairs to train on; make some for {refiner.task.name} with chopgrad pairs.")
    misfit = next((pair for pair in pairs if not refiner.task.fits(pair)), None)
    if misfit is not None:
        suited = [name for name, task in TASKS.items() if task.fits(misfit)]
        raise UserError(f"The pair {misfit.name} is not for {refiner.task.name}; " + (
            f"it suits {' and '.join(suited)}: leave it out, or train a refiner for that." if suited else "leave it out."))
