"""What a rig records agrees with the street that it drives through, at the instant of each line and of each beam."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chopgrad_ns.data.drives.projection import from_pixels, project, undistorted
from chopgrad_ns.sim.drive_world import record
from chopgrad_ns.sim.light import Exposure
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.rig import angles, make_rig, rotations
from chopgrad_ns.sim.sensors import Sensors, points_of
from chopgrad_ns.sim.underway import DriveCaster
from tests.sim.drives import drive_of, off_mesh, off_surfaces
from tests.sim.made import SEED, made

FRAMES, WIDTH, HEIGHT = 3, 120, 80


@pytest.fixture(scope="module")
def world():
    return replace(made("street", SEED), exposure=Exposure())


@pytest.fixture(scope="module")
def recorded(world):
    """Recording, the drive of it, and what each photo truly shows."""
    shots = {}
    recording = record(world, FRAMES, WIDTH, HEIGHT, lambda photo, shot: shots.update({(photo.camera, photo.frame): shot}))
    return recording, drive_of(recording), shots


@pytest.fixture(scope="module")
def sensors(world):
    return Sensors(DriveCaster(world), make_rig(world, WIDTH, HEIGHT))


def seen_points(rig, photo, shot):
    """Pixels' centres and the places that they see: by the plain rule of a rolling shutter, one line after the other."""
    camera, points, uvs, times = rig.cameras[photo.camera], [], [], []
    for row in range(camera.height):
        for column in range(0, camera.width, 3):
            if not shot.depth[row, column]:
                continue
            share = {"left": (column + 0.5) / camera.width, "right": 1 - (column + 0.5) / camera.width,
                     "top": (row + 0.5) / camera.height, "bottom": 1 - (row + 0.5) / camera.height}[camera.first_line]
            uvs.append([column + 0.5, row + 0.5])
            times.append(photo.shutter.first + share * (photo.shutter.last - photo.shutter.first))
            points.append(shot.depth[row, column])
    poses = rig.poses(np.array(times)) @ camera.vehicle_from_camera
    local = from_pixels(camera, np.array(uvs)) * np.array(points)[:, None]
    return np.array(uvs), np.einsum("nij,nj->ni", poses[:, :3, :3], local) + poses[:, :3, 3], np.array(times)


@pytest.mark.parametrize("name", ["FRONT", "FRONT_LEFT", "FRONT_RIGHT"])
def test_pixels_see_what_projects_into_them(world, sensors, recorded, name):
    _, drive, shots = recorded
    photo = drive.photos_of(name)[1]
    uv, points, times = seen_points(sensors.rig, photo, shots[name, 1])
    assert len(uv) > 1000 and off_surfaces(world, points[::29], times[::29]).max() < 1e-3
    found, _, inside = project(drive, photo, points)
    assert inside.all() and np.abs(found - uv).max() < 0.02
    at_once, _, there = project(drive, replace(photo, shutter=None), points)
    assert np.abs(at_once - uv)[there].max() > 0.6, "the shutter rolls"
    straight = replace(drive, cameras={name: replace(drive.cameras[name], distortion=np.zeros(5))})
    assert np.abs(project(straight, photo, points)[0] - uv).max() > 0.6, "the lens bends"


def test_moving_vehicles_are_where_they_are_when_their_line_is_exposed(world, sensors):
    """Pixels of the cars that move lie on them at that instant, and at no other."""
    photo = sensors.rig.photos(30)[0]
    shot = sensors.photo(photo)
    uv, points, times = seen_points(sensors.rig, photo, shot)
    ids = shot.actor_ids[uv[:, 1].astype(int), uv[:, 0].astype(int)]
    for k, vehicle in enumerate(world.vehicles[:2]):
        mine = ids == k + 1
        assert vehicle.track.speed and mine.sum() > 5
        for late in (0.0, -0.02, 0.02):
            poses, _ = world.poses_at(vehicle, times[mine] + late)
            local = np.einsum("nji,nj->ni", poses[:, :3, :3], points[mine] - poses[:, :3, 3])
            off = off_mesh(vehicle.mesh, local)
            assert (off > 1e-3).mean() > 0.5 if late else off.max() < 1e-3


@pytest.mark.parametrize("index", [0, 1])
def test_both_returns_lie_on_surfaces(world, sensors, recorded, index):
    recording, drive, _ = recorded
    lidar, time = recording.lidars[index], 0.1
    sweep = drive.source.frames[1].sweeps[index]
    points = points_of(sweep, lidar, drive.world_from_vehicle[1])
    first, second = (image[..., 0] > 0 for image in sweep.returns)
    assert first.sum() > 2000 and second.sum() >= (40, 1)[index] and not (second & ~first).any()
    assert ((sweep.returns[1] - sweep.returns[0])[second][:, 0] > 0.3).all()
    columns = np.concatenate([np.nonzero(first)[1], np.nonzero(second)[1]])
    times = np.full(len(points), time) if lidar.uniform else time + 0.1 * ((columns + 0.5) / lidar.columns - 0.5)
    some = np.r_[0:first.sum():311, first.sum():len(points):3]
    assert off_surfaces(world, points[some], times[some]).max() < 1e-3
    if not lidar.uniform:
        frozen = points_of(replace(sweep, pixel_poses=None), lidar, drive.world_from_vehicle[1])
        assert np.median(np.linalg.norm(frozen - points, axis=1)) > 0.1, "it moves on while it turns"
    for image in sweep.returns:
        there = image[..., 0] > 0
        assert (image[~there] == -1).all() and (image[there][:, 0] < 75).all()
        assert 0 <= image[there][:, 1].min() and image[there][:, 1].max() <= 1


def test_boxes_are_the_vehicles(world, recorded):
    _, drive, _ = recorded
    vehicles = {vehicle.name: vehicle for vehicle in world.vehicles}
    for frame in drive.source.frames:
        inside = {vehicle.name for vehicle in world.vehicles
                  if np.linalg.norm(world.poses_at(vehicle, np.array([frame.time]))[0][0, :3, 3]
                                    - frame.world_from_vehicle[:3, 3]) <= 75}
        assert {box.name for box in frame.boxes} == inside and 5 < len(inside) < len(world.vehicles)
        for box in frame.boxes:
            track = vehicles[box.name].track
            (pose,), _ = world.poses_at(vehicles[box.name], np.array([frame.time]))
            assert np.allclose(box.pose, pose, atol=1e-9)
            assert np.linalg.norm(box.velocity) == pytest.approx(abs(track.speed), rel=0.05, abs=1e-9)
        assert sum(box.points > 100 for box in frame.boxes) > 3
    ahead = [next(box for box in frame.boxes if box.name == world.vehicles[0].name) for frame in drive.source.frames]
    step = (ahead[2].pose - ahead[0].pose)[:3, 3] / 0.2
    assert np.allclose(step, ahead[1].velocity, atol=0.01) and np.linalg.norm(step) > 5


def test_motion(sensors):
    """Against small steps: velocities are those of the poses, and photos are carried on along them."""
    rig = sensors.rig
    for time in (0.0, 1.37):
        linear, angular = rig.velocities(time)
        now, later = rig.poses(np.array([time, time + 1e-3]))
        assert np.allclose((later - now)[:3, 3] / 1e-3, linear, atol=2e-3)
        spin = (later[:3, :3] @ now[:3, :3].T - np.eye(3)) / 1e-3
        assert np.allclose([spin[2, 1], spin[0, 2], spin[1, 0]], angular, atol=2e-4)
        assert np.linalg.norm(linear) > 4 and np.linalg.norm(angular) > 1e-3
    for photo in rig.photos(7):
        true = rig.poses(np.array([photo.shutter.first]))[0]
        carried = photo.vehicle_at(np.array(photo.shutter.first))
        assert np.abs(carried - true).max() < 2e-4 and np.abs(photo.world_from_vehicle - true).max() > 0.05


def test_angles_are_those_of_rotations():
    values = np.random.default_rng(0).uniform(-1.2, 1.2, (3, 20))
    assert np.allclose(angles(rotations(*values)), values)
    (roll, pitch, yaw), (x, y, z) = values[:, 0], np.eye(3)

    def about(axis, angle):
        cross = np.cross(np.eye(3), axis)
        return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross

    assert np.allclose(rotations(roll, pitch, yaw), about(z, yaw) @ about(y, pitch) @ about(x, roll))


def test_pinholes_are_the_undistorted_photos(sensors, recorded):
    _, drive, _ = recorded
    photos = drive.photos_of("FRONT_LEFT")
    mine, theirs = sensors.rig.pinholes(photos), undistorted(drive, photos, WIDTH, HEIGHT)
    assert torch.allclose(mine.camera_from_world, theirs.camera_from_world, atol=1e-5)
    assert torch.equal(mine.K, theirs.K) and torch.equal(mine.times, theirs.times)
    aside = sensors.rig.pinholes(photos, 2.0).centers - mine.centers
    left = torch.from_numpy(np.stack([photo.world_from_vehicle[:3, 1] for photo in photos])).float()
    assert torch.allclose(aside, 2 * left, atol=1e-5)


def test_views_are_what_a_raycaster_of_frames_sees(world, sensors):
    """Turning rays into vehicles' frames or vehicles into the world is the same."""
    camera = sensors.rig.pinholes([sensors.rig.photos(4)[0]])
    mine = sensors.view(camera)
    theirs = Raycaster(world, world.actors(5)).frame(camera, 4)
    same = np.abs(mine.depth - theirs.depth) < 1e-3
    assert same.mean() > 0.999 and np.abs(mine.picture - theirs.picture).mean() < 1e-4
    assert (mine.actor_ids == theirs.actor_ids)[same].all() and {1, 2} <= set(np.unique(mine.actor_ids))


def test_the_same_seed_gives_the_same_bytes(recorded):
    recording, drive, _ = recorded
    first, again = drive.source.frames[0], next(iter(recording.frames))
    assert first.pictures == again.pictures and len(set(first.pictures)) == 3
    assert all(np.array_equal(a, b) for mine, other in zip(first.sweeps, again.sweeps)
               for a, b in zip(mine.returns, other.returns))


def test_nobody_drives_through_a_room():
    with pytest.raises(ValueError, match="nobody drives through the world room 15"):
        make_rig(made("room", SEED), 64, 48)
