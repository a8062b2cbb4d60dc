"""DGP: real scenes, measured; and what is refused, on copies of them."""

import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch

from chopgrad_ns.data.drives import tracks
from chopgrad_ns.data.drives.boxes import CORNERS, actors_at, moving_actors
from chopgrad_ns.data.drives.derived import coloured_points
from chopgrad_ns.data.drives.dgp import read_dgp
from chopgrad_ns.data.drives.drive import Selection
from chopgrad_ns.data.drives.open import open_drive
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.errors import UserError

SCENES = {"scene_01": 3, "scene_02": 6}


@pytest.fixture(scope="module")
def dataset(shared_data):
    return shared_data / "dgp" / "test_scene"


@pytest.fixture(scope="module", params=SCENES)
def recording(dataset, request):
    """A drive with all of its cameras, and its folder."""
    folder = dataset / request.param
    return read_dgp(folder, Selection(tuple(sorted(path.name for path in (folder / "rgb").iterdir())))), folder


def samples(folder):
    """The data of each sample as the files have them, by sensor."""
    scene = json.loads(next(folder.glob("scene_*.json")).read_text())
    data = {item["key"]: item for item in scene["data"]}
    return [{data[key]["id"]["name"]: next(iter(data[key]["datum"].values())) for key in sample["datum_keys"]}
            for sample in scene["samples"]]


def annotations(folder, datum, kind):
    return json.loads((folder / datum["annotations"][kind]).read_text())["annotations"]


def overlap(a, b):
    """Intersection over union of two rectangles: left, top, right, bottom."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def test_points_are_inside_the_boxes(recording):
    drive, folder = recording
    inside, noted, beside = [], [], 0
    for frame, sample in enumerate(samples(folder)):
        xyz = drive.source.points(frame).xyz
        owner, moved = (actors_at(drive, frame, xyz + shift) for shift in (np.zeros(3), np.array([0, 0, 4.0])))
        beside += int((moved >= 0).sum())
        for item in annotations(folder, sample["LIDAR"], "1"):
            index = [actor.name for actor in drive.actors].index(str(item["instance_id"]))
            inside.append(int((owner == index).sum()))
            noted.append(item["num_points"])
    inside, noted = np.array(inside), np.array(noted)
    many = noted >= 200
    share = inside[many] / noted[many]
    alike = np.corrcoef(np.log1p(inside), np.log1p(noted))[0, 1]
    print(f"{drive.name}: {inside.sum()} points in {len(inside)} boxes, {noted.sum()} noted by the annotators ("
          f"{share.min():.2f} to {share.max():.2f} of them in {many.sum()} boxes with 200 or more; the clouds are thinned); "
          f"correlation of the logarithms {alike:.3f}; {beside} points in the boxes moved up by 4 m")
    assert alike > 0.9 and many.sum() > 5 and share.min() > 0.08 and share.max() < 0.3
    assert beside < 0.1 * inside.sum()


@pytest.mark.parametrize("at", ["lidar", "photo"])
def test_boxes_overlap_the_annotated_ones(recording, at):
    """Of cars whose boxes are wholly in the picture; the annotations mark none as hidden or truncated.

    2D boxes turn out to be those of the 3D boxes at the lidar's time, not where the cars are in the picture: moving the boxes
    to the photo's time, 0.09 to 0.21 s off, brings what moves away from them.
    """
    drive, folder = recording
    frame_times, by_name, moving = torch.from_numpy(drive.times), {a.name: a for a in drive.actors}, moving_actors(drive)
    moving = {drive.actors[index].name for index in moving}
    found = {True: [], False: []}
    for photo in drive.photos:
        datum = samples(folder)[photo.frame][photo.camera]
        solid = {item["instance_id"]: item for item in annotations(folder, datum, "1")}
        for item in annotations(folder, datum, "0"):
            box = solid[item["instance_id"]]["box"]
            actor = by_name[str(item["instance_id"])]
            if actor.kind != "vehicle" or box["occlusion"] or box["truncation"]:
                continue
            pose = tracks.at_time(actor, frame_times, photo.middle if at == "photo" else drive.times[photo.frame])[0].double()
            corners = CORNERS * actor.size.numpy() @ pose[:3, :3].numpy().T + pose[:3, 3].numpy()
            uv, _, inside = project(drive, photo, corners)
            if inside.all():
                x, y, w, h = (item["box"][key] for key in "xywh")
                found[actor.name in moving].append(overlap(np.concatenate([uv.min(axis=0), uv.max(axis=0)]),
                                                           np.array([x, y, x + w, y + h])))
    means = {moves: float(np.mean(values)) for moves, values in found.items()}
    print(f"{drive.name}, boxes at the {at}'s time: mean IoU {np.mean(found[True] + found[False]):.3f} of "
          f"{len(found[True]) + len(found[False])} cars; {means[True]:.3f} of {len(found[True])} that move")
    assert len(found[True]) > 10 and np.mean(found[True] + found[False]) >= 0.7 and min(means.values()) > 0.7


def test_poses_times_and_points_are_as_recorded(recording):
    drive, folder = recording
    listed = samples(folder)
    assert drive.world_from_vehicle[0] == pytest.approx(np.eye(4), abs=1e-9) and drive.times[0] == 0
    for frame, sample in enumerate(listed):
        place = np.array([sample["LIDAR"]["pose"]["translation"][axis] for axis in "xyz"])
        assert drive.source_from_world @ drive.world_from_vehicle[frame] @ [0, 0, 0, 1] == pytest.approx([*place, 1], abs=1e-6)
    for photo in drive.photos:
        sensor = drive.source_from_world @ photo.world_from_vehicle @ drive.cameras[photo.camera].vehicle_from_camera
        place = [listed[photo.frame][photo.camera]["pose"]["translation"][axis] for axis in "xyz"]
        assert sensor[:3, 3] == pytest.approx(place, abs=1e-6)
    with np.load(folder / listed[1]["LIDAR"]["filename"]) as archive:
        recorded = archive["data"]
    local = np.linalg.inv(drive.world_from_vehicle[1]) @ np.c_[drive.source.points(1).xyz, np.ones(len(recorded))].T
    assert np.abs(local[:3].T - recorded[:, :3]).max() < 1e-3, "the lidar's frame is the vehicle's here"


def test_velocities_lead_from_photo_to_photo(dataset):
    drive = read_dgp(dataset, scene="scene_02")
    before, after = drive.photos_of("CAMERA_01")[:2]
    assert before.vehicle_at(np.array(after.time)) == pytest.approx(after.world_from_vehicle, abs=2e-3)
    assert read_dgp(dataset, Selection(last=1), "scene_02").photos[0].linear_velocity is None


def test_parts_of_a_scene(dataset):
    drive = read_dgp(dataset, Selection(("CAMERA_07", "CAMERA_01"), first=1), scene="scene_02")
    whole = read_dgp(dataset, scene="scene_02")
    assert list(drive.cameras) == ["CAMERA_07", "CAMERA_01"] and len(drive) == 2 and len(drive.photos) == 4
    assert list(whole.cameras) == ["CAMERA_01", "CAMERA_05", "CAMERA_06"], "those that look ahead"
    assert drive.times.tolist() == whole.times[1:].tolist() and drive.key != whole.key
    assert all(len(actor) == 2 for actor in drive.actors)
    assert drive.source.picture(drive.photos[0])[:2] == b"\xff\xd8"
    assert open_drive(dataset, scene="scene_02").key == whole.key


def test_where_one_stands_does_not_matter(dataset, monkeypatch):
    whole = open_drive(dataset / "scene_02")
    monkeypatch.chdir(dataset / "scene_02")
    here = open_drive(".")
    assert (here.name, here.key) == (whole.name, whole.key) == ("scene_02", whole.key)


def test_a_track_of_one_box_is_noted(dataset):
    notes = read_dgp(dataset, scene="scene_01").notes
    assert len(notes) == 1 and "one box" in notes[0] and "10955774" in notes[0]


def test_points_take_the_colours_of_the_photos(dataset):
    drive = read_dgp(dataset, scene="scene_02")
    seeds = coloured_points(drive, 40_000)
    x, y, z = seeds.xyz.T
    lawn, street = (x > 5) & (x < 30) & (y > 12) & (y < 30) & (z < 1), (x > 5) & (x < 30) & (np.abs(y) < 3) & (z < 0.5)
    green = [np.median(seeds.rgb[part, 1] - seeds.rgb[part, 2]) for part in (lawn, street)]
    assert lawn.sum() > 50 and street.sum() > 20 and green[0] > 0.03 > abs(green[1])


@pytest.fixture
def copied(dataset, tmp_path):
    """A scene that can be damaged; large files are links."""
    folder = tmp_path / "scene_01"
    shutil.copytree(dataset / "scene_01", folder, copy_function=lambda source, target: shutil.copyfile(source, target)
                    if source.endswith((".json", "3752.npz")) else target_link(source, target))
    return folder


def target_link(source, target):
    os.symlink(source, target)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_gaps_in_time_are_noted(copied):
    file = next(copied.glob("scene_*.json"))

    def later(scene):
        for item in scene["data"]:
            item["id"]["timestamp"] = item["id"]["timestamp"].replace("00:39:00", "00:39:09")

    edit(file, later)
    notes = read_dgp(copied).notes
    assert any("gap of 10.00 s" in note for note in notes)


@pytest.mark.parametrize("break_it, told", [
    (lambda folder: (folder / "calibration").rename(folder / "gone"), "calibration"),
    (lambda folder: next((folder / "rgb/CAMERA_05").iterdir()).unlink(), "CAMERA_05 in sample"),
    (lambda folder: next((folder / "bounding_box_3d/LIDAR").iterdir()).write_text("{"), "not readable JSON"),
    (lambda folder: next((folder / "ontology").iterdir()).unlink(), "ontology"),
    (lambda folder: next(folder.glob("scene_*.json")).write_text("[]"), "not a JSON object"),
    (lambda folder: next(folder.glob("scene_*.json")).write_text('{"samples": [], "data": []}'), "has no samples"),
    (lambda folder: edit(next(folder.glob("scene_*.json")), lambda scene: scene["data"][0]["datum"]["point_cloud"].update(
        filename="../../../etc/passwd")), "not below the scene's folder"),
    (lambda folder: edit(next(folder.glob("scene_*.json")), lambda scene: scene["data"][1]["datum"]["image"]["pose"][
        "rotation"].update(qw=3.0)), "no unit quaternion"),
    (lambda folder: edit(next((folder / "calibration").iterdir()), lambda items: items["intrinsics"][1].update(k4=0.1)), "k4"),
    (lambda folder: edit(next((folder / "calibration").iterdir()), lambda items: items["intrinsics"][1].update(fx=0)),
     "focal length"),
    (lambda folder: edit(next((folder / "bounding_box_3d/LIDAR").iterdir()), lambda items: items["annotations"][0][
        "box"].update(width=-1)), "must be positive"),
])
def test_damage_is_told_in_a_sentence(copied, break_it, told):
    break_it(copied)
    with pytest.raises(UserError, match=told) as refused:
        read_dgp(copied)
    assert str(refused.value).count("\n") == 0 and str(refused.value).endswith(".")


@pytest.mark.parametrize("scene, selection, told", [
    (None, Selection(), "2 scenes"), ("scene_03", Selection(), "no scene scene_03"),
    ("scene_01", Selection(("CAMERA_09",)), "no camera CAMERA_09"), ("scene_01", Selection(first=3), "No frame"),
])
def test_what_is_not_there_is_told(dataset, scene, selection, told):
    with pytest.raises(UserError, match=told):
        read_dgp(dataset, selection, scene)


def test_clouds_that_claim_too_much_are_refused(copied):
    file = next(path for path in (copied / "point_cloud/LIDAR").iterdir() if not path.is_symlink())
    with zipfile.ZipFile(file) as archive:
        content = archive.read("data.npy")
    end = content.index(b"\n") + 1
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 4), }".ljust(end - 11) + b"\n"
    drive = read_dgp(copied)
    for damaged in (content[:10] + header + content[end:], content[:-7], content[:10], b"", content.replace(b"<f8", b"|O8")):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("data.npy", damaged)
        with pytest.raises(UserError, match="point cloud .* is damaged"):
            drive.source.points(0)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="point cloud .* is damaged"):
        drive.source.points(0)


def test_any_change_of_the_json_is_read_or_refused(copied):
    """Values are replaced by others of the wrong kind; nothing but a UserError may come of it."""
    draw = random.Random(0)
    files = [next(copied.glob("scene_*.json")), next((copied / "calibration").iterdir()),
             next((copied / "bounding_box_3d/LIDAR").iterdir()), next((copied / "ontology").iterdir())]
    refused = 0
    for _ in range(160):
        file = draw.choice(files)
        before = file.read_text()
        content = node = json.loads(before)
        while True:
            key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[key], (dict, list)) or not node[key] or draw.random() < 0.25:
                break
            node = node[key]
        node[key] = draw.choice([None, "x", -1, [], {}, 1e400, [1], True])
        file.write_text(json.dumps(content))
        try:
            read_dgp(copied).source.points(0)
        except UserError:
            refused += 1
        file.write_text(before)
    assert 40 < refused < 160
