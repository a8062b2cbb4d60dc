"""Pairs of a street with a vehicle inserted: naive where the vehicle is, true elsewhere, and the truth beside it."""

import json

import numpy as np
import pytest
import torch

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.manifest import read_manifest
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.tasks.driving import Driving
from chopgrad_ns.sim.drive_files import write_drive
from chopgrad_ns.sim.edit_pairs import inserted_splat, turntable
from chopgrad_ns.sim.edits import inserted_vehicle
from chopgrad_ns.sim.truth import Truth
from chopgrad_ns.splat.fit import FitSettings
from tests.sim.made import made

SEED, FRAMES = 4, 3


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drives") / "street"
    write_drive(folder, made("street", SEED, 0.0), FRAMES, 96, 64, ("lane_0", "inserted"))
    return folder


@pytest.fixture(scope="module")
def pairs(street, tmp_path_factory):
    output = tmp_path_factory.mktemp("pairs") / "pairs"
    main(["pairs", "--output", str(output), "--data", str(street), "--steps", "60"])
    return output


def test_turntables_show_all_of_the_vehicle_in_its_box():
    world = made("street", SEED, 0.0)
    vehicle = inserted_vehicle(world, FRAMES)
    table = turntable(world, vehicle)
    own = table.actor_ids[:, 0] > 0
    assert own.flatten(1).any(dim=1).all() and not own[:, 0].any() and not own[:, :, 0].any() and not own[:, :, -1].any()
    low, high = table.views.points.amin(dim=0), table.views.points.amax(dim=0)
    assert (table.views.points.abs() <= table.actor.size / 2 + 1e-3).all()
    assert ((high - low)[:2] > 0.9 * table.actor.size[:2]).all()
    background = table.views.photos.permute(0, 2, 3, 1)[~own]
    assert background.std() < 0.02, "nothing else is there"


def test_pairs_of_each_camera(street, pairs):
    entries = read_manifest(pairs)["pairs"]
    assert [entry["name"] for entry in entries] == [f"street-edits-{name}" for name in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT")]
    truth = Truth(street / "truth")
    for camera, entry in zip(truth.cameras, entries):
        pair = StoredPair(pairs / entry["name"]).read()
        assert entry["way"] == "edits" and entry["scene"]["licence"].startswith("Apache") and Driving().fits(pair)
        before, after = truth.video("lane_0", camera), truth.video("inserted", camera)
        assert torch.allclose(pair.clean, after.frames, atol=0.6 / 255) and torch.equal(pair.degraded.actor_ids, after.actor_ids)
        untouched = pair.degraded.mask == 0
        assert torch.allclose((pair.degraded.frames - before.frames) * untouched, torch.zeros(1), atol=0.6 / 255)
        assert torch.allclose(pair.degraded.cameras.camera_from_world, after.cameras.camera_from_world)


def test_the_vehicle_is_where_it_is_and_its_shadow_is_missing(street, pairs):
    truth = Truth(street / "truth")
    pair = StoredPair(pairs / "street-edits-FRONT").read()
    before, after = truth.video("lane_0", "FRONT"), truth.video("inserted", "FRONT")
    index = [actor.name for actor in after.actors].index(truth.about["edits"]["inserted"]["actor"])
    own, mask = after.actor_ids == index + 1, pair.degraded.mask > 0.5
    assert own.sum() > 200 and (own & mask).sum() > 0.7 * (own | mask).sum()
    there = own & mask
    assert (pair.degraded.depth - after.depth)[there].abs().median() < 0.4

    def error(frames, where):
        return float((frames - pair.clean).abs().mean(dim=1, keepdim=True)[where].mean())

    assert 0.02 < error(pair.degraded.frames, there) < 0.8 * error(before.frames, there), "another light, but the same car"
    around = torch.nn.functional.max_pool2d((own | mask).float(), 3, 1, 1) > 0
    assert (((pair.degraded.frames - pair.clean).abs().amax(dim=1, keepdim=True) > 0.03) & ~around).sum() > 10


def test_what_stands_before_the_vehicle_hides_it(street):
    """Seen from behind a wall of true depth, the splat is gone."""
    from chopgrad_ns.sim.edit_pairs import edit_pair

    truth = Truth(street / "truth")
    splat = inserted_splat(truth, FitSettings(steps=20))
    open_ = edit_pair(truth, "FRONT", splat, references=0)

    class Walled(Truth):
        def video(self, name, camera):
            video = super().video(name, camera)
            if name == "lane_0":
                video.depth[..., :48] = 2.0
            return video

    walled = edit_pair(Walled(street / "truth"), "FRONT", splat, references=0)
    assert not walled.degraded.mask[..., :48].any() and open_.degraded.mask[..., :48].any()
    assert torch.equal(walled.degraded.mask[..., 48:], open_.degraded.mask[..., 48:])
    assert open_.degraded.references is None


def test_refusals(street, tmp_path, capsys):
    def refused(message, *command):
        with pytest.raises(SystemExit) as caught:
            main(["pairs", "--output", str(tmp_path / "out"), "--data", *map(str, command)])
        assert caught.value.code == 2 and message in capsys.readouterr().err

    refused("whose pairs are edits", street, "--ways", "sparse")
    write = tmp_path / "other" / "truth"
    write.mkdir(parents=True)
    about = json.loads((street / "truth" / "world.json").read_text())
    (write / "world.json").write_text(json.dumps(about | {"recipe": 1}))
    with pytest.raises(UserError, match="of recipe 1, not"):
        inserted_splat(Truth(write), FitSettings(steps=2))
    (write / "world.json").write_text(json.dumps(about | {"videos": ["lane_0"]}))
    refused("lacks lane_0 or inserted", tmp_path / "other")
    main(["sample", "objects", str(tmp_path / "scene"), "--frames", "2", "--width", "32", "--height", "24"])
    refused("no truth to make edits of", tmp_path / "scene", "--ways", "edits")
    assert np.all([path.name in ("out", "other", "scene") for path in tmp_path.iterdir()])
