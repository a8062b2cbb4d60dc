"""Methods of artifact removal on captures that none of them was trained on.

Splats are fitted to every 8th view of each scene and seen along the views that were held out, in one trajectory. Each method
mends what they show together. All that learn do so on the same pairs of sample worlds, from the same random weights, for the
same number of steps of about as many pixels. Everything is kept under --work and done once; the same command given again goes on.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Tuple

import torch
from torch import Tensor

from chopgrad_ns.chopgrad import Full
from chopgrad_ns.cli.progress import bar
from chopgrad_ns.data.parallel import run_side_by_side
from chopgrad_ns.data.references import REFERENCES, blend_baseline
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError, check_least
from chopgrad_ns.evaluate.comparison import MASK, TRUTH
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.splat.fit import FitSettings
from comparing.added import Added
from comparing.autoencoder import autoencoder, refiner_around
from comparing.halved import halved_pairs
from comparing.methods import METHODS, Method, settings_of, trained
from comparing.options import check_qualities
from comparing.results import begin, tell, training_table
from comparing.scenes import Scene, held_out_scene
from comparing.worlds import FIRST_SEED, world_pairs

TASK = "artifact-removal"


def run(data: Tuple[Path, ...], work: Path = Path("outputs/compare"), every: int = 8, longest_side: int = 240,
        add: Tuple[str, ...] = (), steps: int = 300, worlds: int = 10, qualities: int = 2, fit_steps: int = 1500,
        ensemble: int = 5, crop: int = 64, batch: int = 1, references: int = REFERENCES, workers: int = 2, seed: int = 0,
        small: bool = False) -> None:
    """Compare methods of artifact removal.

    Args:
        data: scenes (nerfstudio or COLMAP) to judge on
        work: folder for splats, pairs and trained methods, and `comparison` and `table.md` with the result
        every: every N-th view is fitted to, all others are held out
        longest_side: pixels
        add: NAME=FOLDER, frames that another method made of `comparison/clips/SCENE/raw`; with several scenes, folders of
            their names in it
        steps: training steps of each method
        worlds: sample worlds that are trained on
        qualities: splats fitted to each of them, of different sparsity
        fit_steps: training steps of the scenes' splats
        ensemble: splats of each scene, from other seeds; what is mended is what they show together
        crop: pixels, width and height of what is trained on; above 64 pairs of half the resolution are too small for as many
        batch: clips of 9 frames a step, or as many pixels
        references: photos warped into each frame
        workers: processes that fit splats to sample worlds, and then train methods, side by side
        seed: of crops and order
        small: sample worlds of a few pixels, to try the command
    """
    check_least(every=(every, 2), longest_side=(longest_side, 32), steps=(steps, 2), worlds=(worlds, 1),
                fit_steps=(fit_steps, 1), ensemble=(ensemble, 1), crop=(crop, 16), batch=(batch, 1), references=(references, 0),
                workers=(workers, 1))
    check_qualities(qualities)
    own = ["raw", "blend", "ensemble", "ensemble-blend", *(method.name for method in METHODS), "tiny", TRUTH, MASK]
    added, began = Added.of(add, [path.resolve().name for path in data], own), time.monotonic()
    scenes = []
    for path in data:
        with bar(f"splat of {path.name}") as progress:
            scenes.append(held_out_scene(path, work / "scenes" / path.resolve().name, every, longest_side,
                                         FitSettings(steps=fit_steps), ensemble, references, progress))
    added.check(scenes)
    comparison = begin(work, "Artifact removal")
    for scene in scenes:
        comparison.add_clip(scene.name, scene.truth, distance=scene.distance, names=scene.names)
    pairs = world_pairs(work / "pairs", worlds, qualities, FIRST_SEED, references, workers, small)

    def compare(name: str, label: str, about: str, refine: Callable[[Scene], Tensor], timed: bool = True) -> None:
        comparison.add_method(name, label, about)
        for scene in scenes:
            start = time.perf_counter()
            frames = refine(scene)
            comparison.add_frames(scene.name, name, frames, time.perf_counter() - start if timed else None)
        comparison.finish()

    compare("raw", "render", "One splat as it is seen.", lambda scene: scene.single.frames, timed=False)
    compare("blend", "photos blended in, no learning",
            "Each pixel moves half way to the photos warped there, as far as these can be believed.",
            lambda scene: blend_baseline(scene.single))
    if ensemble > 1:
        compare("ensemble", f"{ensemble} splats together", "What all that follow mend: splats of other seeds, no "
                "learning.", lambda scene: scene.clip.frames, timed=False)
        compare("ensemble-blend", f"{ensemble} splats together, photos blended in", "Both, no learning.",
                lambda scene: blend_baseline(scene.clip))
    first = FinetuneSettings(steps=steps // 2, buckets=f"9x{crop}x{crop}x{batch}", seed=seed, match_exposure=False)
    given = partial(autoencoder, work / "autoencoder", pairs, TASK, first, _silent)
    learn = partial(_learn, given=given, given_steps=first.steps, work=work, pairs=pairs,
                    settings_for=partial(settings_of, steps=steps, crop=crop, batch=batch, seed=seed))
    _learn_all(given, learn, workers)
    trainings: dict[str, dict] = {}
    for method in METHODS:
        refiner, trainings[method.label] = learn(method)
        compare(method.name, method.label, method.about, lambda scene: method.run(refiner, scene.clip))
    tiny = Refiner.from_pretrained("tiny", task=TASK)
    if tiny.pretrained:
        compare("tiny", "the embedded refiner",
                "As it is shipped: trained for longer, and on more pairs, than all others here.",
                lambda scene: tiny(scene.clip))
    for name in added.names:
        compare(name, name, "Frames that were given.", lambda scene: added.frames(name, scene), timed=False)
    tell(comparison, work, began, training_table(trainings))


def _learn_all(given: Callable, learn: Callable, workers: int) -> None:
    """Train what is not there yet, side by side; the autoencoder is there before those that it is given to."""
    alone = {method.name: partial(learn, method) for method in METHODS if not method.given}
    around = {method.name: partial(learn, method) for method in METHODS if method.given}
    for wave in ({"the autoencoder": given} | alone, around):
        names = list(wave)
        for index, outcome in run_side_by_side(_about, list(wave.values()), workers):
            if isinstance(outcome, UserError):
                raise outcome
            print(f"trained {names[index]} in {outcome['seconds']:.0f} s", flush=True)


def _about(train: Callable[[], tuple]) -> dict:
    """What is to be told of a training; what was trained is in its folder."""
    return train()[1]


def _learn(method: Method, given: Callable, given_steps: int, work: Path, pairs: Sequence[StoredPair],
           settings_for: Callable[[Method], FinetuneSettings]) -> tuple[Refiner, dict]:
    """A method's refiner, trained if it is not there, and its training's steps, seconds and pixels, those of an autoencoder that
    it was given included. Full and Exact have the same gradient, and Full takes less time.
    """
    train = partial(trained, task=TASK, folder=work / method.name, settings=settings_for(method), progress=_silent,
                    backprop=Full())
    if not method.given:
        return train(lambda: Refiner(RefinerConfig()), pairs=halved_pairs(pairs, work / "pairs-halved") if method.low else pairs)
    vae, about = given()
    refiner, found = train(lambda: refiner_around(vae, TASK, "residual"), pairs=pairs)
    return refiner, found | {"steps": given_steps + found["steps"], "seconds": about["seconds"] + found["seconds"]}


def _silent(step: int, steps: int) -> None:
    """Progress of one among several at once."""
