"""Drives of `chopgrad sample street` as a source of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from chopgrad_ns.cli.pair_jobs import Planned, Report, SplatWays, fingerprint, part_of
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.reinsertion import Perturbation


def is_street(path: Path) -> bool:
    """Whether a folder is a drive with its truth."""
    return (path / "truth" / "world.json").exists()


@dataclass(frozen=True)
class StreetJob:
    """A drive with its truth: a pair for each of its cameras, with a vehicle inserted."""

    path: Path
    source: str
    licence: str | None
    """by default the one that the drive states"""
    ways: SplatWays

    def planned(self, report: Report) -> Iterator[Planned]:
        """All pairs to be made of the drive; the vehicle's splat is fitted once."""
        from chopgrad_ns.sim.edit_pairs import edit_pair, inserted_splat
        from chopgrad_ns.sim.truth import Truth

        truth = Truth(self.path / "truth")
        settings = replace(self.ways.settings, depth_prior="metric")
        scene = {"name": self.source, "licence": self.licence or truth.about["licence"], "fingerprint": fingerprint(self.path),
                 "kind": truth.about["kind"], "seed": truth.about["seed"], "recipe": truth.about["recipe"]}
        fitted = []
        for index, camera in enumerate(truth.cameras):

            def make(camera=camera, index=index) -> tuple[Pair, dict]:
                if not fitted:
                    fitted.append(inserted_splat(truth, settings, part_of(report, 0, 1, "vehicle")))
                return (edit_pair(truth, camera, fitted[0], settings.seed + index, references=self.ways.references),
                        {"gaussians": len(fitted[0])})

            names = [f"{camera}/{number:05d}" for number in range(len(truth.times))]
            yield f"edits-{camera}", {
                "way": "edits", "scene": scene, "cameras": names, "references": self.ways.references,
                "actors": [truth.about["edits"].get("inserted", {}).get("actor")], "settings": asdict(settings),
                "perturbation": asdict(Perturbation())}, make
