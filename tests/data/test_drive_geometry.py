"""Where cameras of a drive are and what they see, and where actors are, against plain loops and other libraries."""

import cv2
import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.spatial.transform import Rotation, Slerp

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, RigCamera, Selection, Shutter, in_first_frame, inverse, moved
from chopgrad_ns.data.drives.projection import from_pixels, line_times, project, to_pixels, undistorted
from chopgrad_ns.data.drives.tracks import BEYOND, LONGEST, all_at_time, at_time, at_times
from chopgrad_ns.errors import UserError
from tests.data.recorded_world import looking, pose

LENS = np.array([-0.28, 0.09, 0.0013, -0.0021, -0.012])
"""Strong, as those of wide lenses are."""


def camera(first_line=None, distortion=LENS, width=480, height=320, focal=260.0):
    K = np.array([[focal, 0, width / 2 + 3.2], [0, focal + 1.5, height / 2 - 2.1], [0, 0, 1]])
    return RigCamera("front", width, height, K, np.asarray(distortion), looking(10, [1.5, 0.3, 1.6]), first_line)


def photo(speed=(0.0, 0, 0), spin=(0.0, 0, 0), shutter=None, time=3.0):
    where = pose(Rotation.from_euler("ZYX", [0.4, 0.03, -0.02]), [20, -7, 0.5])
    return Photo("front", 0, time, where, "a test's", np.array(speed), np.array(spin), shutter)


def drive(rig_camera, photos):
    return Drive("test", np.array([3.0]), np.eye(4)[None], np.eye(4), {"front": rig_camera}, photos, [], [], None, "0")


def cross(vector):
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def places(rig_camera, shot, count=200, near=2.0, far=40.0, seed=0):
    """Places that the camera sees, in the world."""
    random = np.random.default_rng(seed)
    uv = random.uniform([5, 5], [rig_camera.width - 5, rig_camera.height - 5], (count, 2))
    local = from_pixels(rig_camera, uv) * random.uniform(near, far, (count, 1))
    world_from_camera = shot.vehicle_at(np.array(shot.middle)) @ rig_camera.vehicle_from_camera
    return local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]


def test_distortion_is_opencvs():
    rig_camera, local = camera(), np.random.default_rng(0).uniform([-0.8, -0.6, 1], [0.8, 0.6, 1], (300, 3))
    local *= np.random.default_rng(1).uniform(1, 30, (300, 1))
    uv, ahead = to_pixels(rig_camera, local)
    assert ahead.all() and np.allclose(uv, cv2.projectPoints(local, np.zeros(3), np.zeros(3), rig_camera.K, LENS)[0][:, 0])
    assert np.abs(uv - (local / local[:, 2:]) @ rig_camera.K[:2].T).max() > 20, "distortion matters"
    back = from_pixels(rig_camera, uv)
    assert np.allclose(back, local / local[:, 2:], atol=1e-6)
    assert from_pixels(rig_camera, np.zeros((0, 2))).shape == (0, 3)


@pytest.mark.parametrize("distortion", [LENS, [-0.4, 0.1, 0, 0, 0], [-0.2, 0.04, 0, 0, -0.02], [0.05, 0.01, 0, 0, 0.1]])
def test_what_is_far_aside_does_not_fold_back_into_the_picture(distortion):
    """A polynomial that turns back would show places that are 50° aside within the picture."""
    rig_camera = camera(distortion=distortion, focal=160.0)
    angles = np.radians(np.linspace(0, 89.5, 359))
    local = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=1)
    for turned in (local, local * [-1, 1, 1], local[:, [1, 0, 2]]):
        uv, ahead = to_pixels(rig_camera, turned)
        right = np.abs(uv - rig_camera.K[:2, 2]).max(axis=1)[ahead]
        assert (np.diff(right) > 0).all() and ahead[0] and (ahead[1:] <= ahead[:-1]).all()
        assert ahead[angles < np.radians(38)].all()


def test_behind_and_no_places():
    shot = photo()
    points = np.array([[np.nan, 0, 0], *(shot.world_from_vehicle @ [[-9.0, 1.4], [0, 0], [1, 1.6], [1, 1]])[:3].T])
    assert not project(drive(camera(), [shot]), shot, points)[2].any()
    uv, depths, inside = project(drive(camera(), [shot]), shot, np.zeros((0, 3)))
    assert uv.shape == (0, 2) and depths.shape == inside.shape == (0,)


def test_a_vehicle_goes_on_at_its_velocities():
    shot = photo((12.0, -3, 0.5), (0.1, -0.2, 0.7))
    times = np.array([[2.9, 3.0], [3.05, 4.5]])
    poses = shot.vehicle_at(times)
    for index, time in np.ndenumerate(times):
        turn = expm(cross(shot.angular_velocity) * (time - 3.0))
        assert np.allclose(poses[index][:3, :3], turn @ shot.world_from_vehicle[:3, :3], atol=1e-12)
        assert np.allclose(poses[index][:3, 3], shot.world_from_vehicle[:3, 3] + (time - 3) * shot.linear_velocity)
    still = Photo("front", 0, 3.0, shot.world_from_vehicle, "")
    assert (still.vehicle_at(np.array([2.0, 5.0])) == shot.world_from_vehicle).all()


def test_another_world_turns_velocities_too():
    shot, change = photo((12.0, -3, 0.5), (0.1, -0.2, 0.7)), pose(Rotation.from_euler("ZYX", [1, 0.2, 0.1]), [5, 6, 7])
    times = np.array([2.5, 3.2])
    assert np.allclose(moved(shot, change).vehicle_at(times), change @ shot.vehicle_at(times), atol=1e-9)
    first, back = in_first_frame(shot.vehicle_at(times))
    assert np.allclose(back @ first, np.eye(4), atol=1e-12) and (first == shot.vehicle_at(times)[0]).all()
    rounded = shot.world_from_vehicle.astype(np.float32)
    assert np.allclose(inverse(rounded) @ rounded.astype(np.float64), np.eye(4), atol=1e-12)


def lines_oracle(rig_camera, shot, point):
    """The line that saw a place, by trying all in fiftieths: where it is exposed and where the place then is, agree."""
    vertical = rig_camera.first_line in ("top", "bottom")
    length = rig_camera.height if vertical else rig_camera.width
    lines = np.linspace(0, length, 50 * length + 1)
    share = lines / length if rig_camera.first_line in ("top", "left") else 1 - lines / length
    times = shot.shutter.first + share * (shot.shutter.last - shot.shutter.first)
    camera_from_world = np.linalg.inv(shot.vehicle_at(times) @ rig_camera.vehicle_from_camera)
    local = camera_from_world[:, :3, :3] @ point + camera_from_world[:, :3, 3]
    uv = cv2.projectPoints(local, np.zeros(3), np.zeros(3), rig_camera.K, rig_camera.distortion)[0][:, 0]
    best = np.abs(uv[:, 1 if vertical else 0] - lines).argmin()
    return uv[best], local[best, 2], times[best]


@pytest.mark.parametrize("speed, spin", [((30.0, 9, 0), (0.02, 0.03, 0.6)), ((-24.0, -6, 0.3), (0, 0, -0.8))])
@pytest.mark.parametrize("first_line", ["top", "bottom", "left", "right"])
def test_rolling_shutter_against_all_lines(first_line, speed, spin):
    """A place is seen by the line that is exposed when it is there, near ones past which the vehicle drives too."""
    rig_camera = camera(first_line)
    shot = photo(speed, spin, Shutter(2.99, 3.04))
    points = np.concatenate([places(rig_camera, shot, 12, 2.0, 6.0), places(rig_camera, shot, 8, 6.0, 60.0)])
    uv, depths, inside = project(drive(rig_camera, [shot]), shot, points)
    assert inside.sum() > 12
    for index in inside.nonzero()[0]:
        pixel, depth, time = lines_oracle(rig_camera, shot, points[index])
        assert np.abs(uv[index] - pixel).max() < 0.05 and abs(depths[index] - depth) < 2e-3
        assert line_times(rig_camera, shot, uv[index:index + 1])[0] == pytest.approx(time, abs=1e-5)
    still, _, _ = project(drive(camera(), [shot]), shot, points)
    assert np.abs(still - uv)[inside].max() > 3, "it matters"


@pytest.mark.parametrize("yaw", [0, 60])
@pytest.mark.parametrize("first_line", ["left", "right"])
def test_what_comes_into_the_picture_while_it_is_exposed(first_line, yaw):
    """Close to a fast vehicle, which places are in the picture at all depends on when their lines are exposed."""
    K = np.array([[520.0, 0, 241], [0, 520, 160], [0, 0, 1]])
    rig_camera = RigCamera("front", 480, 320, K, np.zeros(5), looking(yaw, [1.5, 0.3, 1.6]), first_line)
    shot = photo((28.0, 11, 0), (0, 0, 0.1), Shutter(2.98, 3.02))
    middle = shot.vehicle_at(np.array(3.0)) @ rig_camera.vehicle_from_camera
    x, y, z = np.meshgrid(np.linspace(-0.9, 0.9, 90), np.linspace(-0.5, 0.5, 6), [3.0, 6.0, 15.0])
    points = np.stack([x * z, y * z, z], axis=-1).reshape(-1, 3) @ middle[:3, :3].T + middle[:3, 3]
    _, _, inside = project(drive(rig_camera, [shot]), shot, points)
    lines = np.linspace(0, 480, 481)
    share = lines / 480 if first_line == "left" else 1 - lines / 480
    local = np.linalg.inv(shot.vehicle_at(2.98 + 0.04 * share) @ rig_camera.vehicle_from_camera)
    local = np.einsum("lij,nj->nli", local[:, :3, :3], points) + local[:, None, :3, 3].swapaxes(0, 1)
    uv = (local / local[..., 2:]) @ K.T
    past = uv[..., 0] > lines
    sure = (np.abs(uv[..., 0][:, [0, -1]] - lines[[0, -1]]) > 0.5).all(axis=1) & (local[..., 2] > 0.1).all(axis=1)
    row = uv[np.arange(len(points)), (past[:, :-1] != past[:, 1:]).argmax(axis=1), 1]
    sure &= (np.abs(row - 160) < 159) | (np.abs(row - 160) > 161)
    expected = past[:, 0] & ~past[:, -1] & (np.abs(row - 160) < 160)
    assert sure.sum() > 1000 and (inside == expected)[sure].all()
    at_once = RigCamera("front", 480, 320, K, np.zeros(5), rig_camera.vehicle_from_camera)
    assert (project(drive(at_once, [shot]), shot, points)[2] != inside).sum() > 5 and inside.sum() > 100


def test_at_once_or_not_known():
    """Without the side that is exposed first, or without velocities, all is seen at the middle line's time."""
    rig_camera, shot = camera(), photo((20.0, 0, 0), (0, 0, 0.5), Shutter(2.99, 3.05))
    points = places(rig_camera, shot)
    expected = np.linalg.inv(shot.vehicle_at(np.array(3.02)) @ rig_camera.vehicle_from_camera)
    local = points @ expected[:3, :3].T + expected[:3, 3]
    uv, depths, inside = project(drive(rig_camera, [shot]), shot, points)
    assert inside.all() and np.allclose(depths, local[:, 2]) and np.allclose(uv, to_pixels(rig_camera, local)[0])
    assert (line_times(rig_camera, shot, uv) == pytest.approx(3.02))
    standing = Photo("front", 0, 3.0, shot.world_from_vehicle, "", shutter=shot.shutter)
    uv, _, _ = project(drive(camera("left"), [standing]), standing, points)
    local = np.einsum("ij,nj->ni", inverse(shot.world_from_vehicle @ rig_camera.vehicle_from_camera),
                      np.concatenate([points, np.ones((len(points), 1))], axis=1))
    assert np.allclose(uv, to_pixels(rig_camera, local[:, :3])[0])


def test_undistorted_cameras_are_the_middle_lines():
    rig_camera = camera("left")
    shots = [photo((20.0, 0, 0), (0, 0, 0.5), Shutter(2.99, 3.05)), photo(time=4.0)]
    cameras = undistorted(drive(rig_camera, shots), shots, 240, 160)
    assert cameras.times.tolist() == pytest.approx([3.02, 4.0]) and (cameras.width, cameras.height) == (240, 160)
    for index, shot in enumerate(shots):
        points = places(rig_camera, shot)
        seen = points @ cameras.camera_from_world[index, :3, :3].double().numpy().T \
            + cameras.camera_from_world[index, :3, 3].double().numpy()
        half = (seen / seen[:, 2:]) @ cameras.K[index].double().numpy().T
        local = inverse(shot.vehicle_at(np.array(shot.middle)) @ rig_camera.vehicle_from_camera)
        straight = points @ local[:3, :3].T + local[:3, 3]
        assert np.allclose(2 * half[:, :2], (straight / straight[:, 2:] @ rig_camera.K.T)[:, :2], atol=5e-3)


def actor(times, boxes, dtype=torch.float64):
    """One that drives a bend, with boxes in some of the frames."""
    poses = np.stack([pose(Rotation.from_euler("ZY", [0.5 * t, 0.1 * np.sin(t)]), [8 * t, np.sin(t), 0.1 * t]) for t in times])
    present = torch.zeros(len(times), dtype=torch.bool)
    present[list(boxes)] = True
    poses[~present.numpy()] = np.nan  # they mean nothing, so nothing may come of them
    return Actor("a", "vehicle", torch.tensor([4.0, 2, 1.5]), torch.tensor(poses, dtype=dtype), present)


def track_oracle(times, boxes, poses, time, longest=0.35, beyond=0.12):
    """Pose, or None where it is not there, one time at a time, in words of the documentation."""
    rows, row = [], [boxes[0]]
    for before, after in zip(boxes, boxes[1:]):
        if times[after] - times[before] > longest:
            rows.append(row)
            row = []
        row.append(after)
    rows.append(row)
    away = [max(times[row[0]] - time, time - times[row[-1]], 0) for row in rows]
    row = rows[int(np.argmin(away))]
    if min(away) > beyond:
        return None
    if len(row) == 1:
        return poses[row[0]]
    place = min(max(sum(times[index] <= time for index in row) - 1, 0), len(row) - 2)
    a, b = row[place], row[place + 1]
    share = (time - times[a]) / (times[b] - times[a])
    spin = Rotation.from_matrix(poses[b][:3, :3] @ poses[a][:3, :3].T).as_rotvec()
    turn = Rotation.from_rotvec(share * spin).as_matrix() @ poses[a][:3, :3]
    return pose(Rotation.from_matrix(turn), poses[a][:3, 3] + share * (poses[b] - poses[a])[:3, 3])


@pytest.mark.parametrize("spacing", [0.1, 0.5])
@pytest.mark.parametrize("boxes", [range(12), [0, 1, 2, 3, 8, 9, 11], [4], [0, 11], [2, 3, 9], [0, 4, 5]])
def test_tracks_against_one_time_at_a_time(boxes, spacing):
    """Recordings of 10 frames a second, and of 2 as nuScenes' keyframes: there too boxes of frames in a row are joined."""
    times = 7 + spacing * np.arange(12) + 0.003 * np.sin(np.arange(12))
    made, boxes = actor(times, boxes), list(boxes)
    asked = np.random.default_rng(0).uniform(times[0] - 0.3, times[-1] + 0.3, 400)
    asked = np.concatenate([asked, times])
    poses, there = at_times(made, torch.tensor(times), torch.tensor(asked))
    usual = float(np.median(np.diff(times)))
    longest, beyond = (max(seconds, shares * usual) for seconds, shares in (LONGEST, BEYOND))
    seen = 0
    for index, time in enumerate(asked):
        expected = track_oracle(times, boxes, made.world_from_actor.numpy(), time, longest, beyond)
        assert bool(there[index]) == (expected is not None), (time, boxes)
        if expected is not None:
            assert np.abs(poses[index].numpy() - expected).max() < (2e-3 if spacing > 0.2 else 3e-4)
            seen += 1
    assert seen > 10 and torch.isfinite(poses).all()
    for frame in boxes:
        found, present = at_time(made, torch.tensor(times), float(times[frame]))
        assert present and torch.allclose(found, made.world_from_actor[frame], atol=1e-9)


def test_many_tracks_at_once_as_one_at_a_time():
    times = 7 + np.concatenate([0.1 * np.arange(6), 0.9 + 0.1 * np.arange(6)])
    rows = [], range(12), [0, 1, 2, 3, 8, 9, 11], [4], [0, 11], [2, 3, 9], [0, 4, 5], [5, 6]
    made = [actor(times, boxes) for boxes in rows]
    seen = set()
    for time in np.linspace(6.7, 8.8, 85):
        found = all_at_time(made, torch.tensor(times), time)
        for index, one in enumerate(made):
            expected, there = at_time(one, torch.tensor(times), time)
            assert (index in found) == there
            if there:
                assert np.allclose(found[index], expected.numpy(), atol=1e-12)
                seen.add(index)
    assert seen == set(range(1, 8)) and all_at_time([], torch.tensor(times), 7.0) == {}


def test_between_boxes_as_scipy():
    """Slerp, for rotations that are close."""
    times = np.array([0.0, 0.1, 0.2])
    made, asked = actor(times, range(3)), np.linspace(0, 0.2, 41)
    poses, there = at_times(made, torch.tensor(times), torch.tensor(asked))
    slerp = Slerp(times, Rotation.from_matrix(made.world_from_actor[:, :3, :3].numpy()))
    assert there.all() and np.abs(poses[:, :3, :3].numpy() - slerp(asked).as_matrix()).max() < 1e-5


def test_an_actor_without_boxes_is_nowhere():
    times = np.arange(4) / 10
    poses, there = at_times(actor(times, []), torch.tensor(times), torch.tensor([0.0, 0.15]))
    assert not there.any() and poses.shape == (2, 4, 4)


def test_tracks_are_differentiable():
    times = np.array([0.0, 0.1, 0.2, 0.3])
    asked = torch.tensor([-0.05, 0.02, 0.1, 0.27, 0.36])
    made = actor(times, [0, 1, 3])
    start = torch.where(made.present[:, None, None], made.world_from_actor, torch.eye(4).double()).requires_grad_()

    def places_at(poses):
        corner = torch.tensor([2.0, 1, 0.7, 1]).double()
        return at_times(Actor("a", "vehicle", made.size, poses, made.present), torch.tensor(times), asked)[0] @ corner

    assert torch.autograd.gradcheck(places_at, (start,), atol=1e-6)
    places_at(start).sum().backward()
    assert (start.grad[2] == 0).all() and (start.grad[[0, 1, 3], :3, 3] != 0).all()


def test_float32_times_of_a_long_drive():
    """An hour in, float32 seconds are a quarter of a millisecond coarse: 4 mm at 15 m/s, but no wrong frames."""
    times = 3600 + np.arange(12) / 10
    made = actor(times, range(12), torch.float32)
    poses, there = at_times(made, torch.tensor(times), torch.tensor(times + 0.05, dtype=torch.float32)[:-1])
    expected = np.stack([track_oracle(times, list(range(12)), made.world_from_actor.double().numpy(), time)
                         for time in times[:-1] + 0.05])
    assert there.all() and np.abs(poses.numpy() - expected).max() < 5e-3


def test_selections():
    assert Selection().frames(4, "x") == [0, 1, 2, 3] and Selection(first=1, last=9, step=2).frames(6, "x") == [1, 3, 5]
    assert Selection().camera_names(["a", "b", "c"], ("c", "z", "a"), "x") == ["c", "a"]
    assert Selection().camera_names(["a", "b"], ("z",), "x") == ["a", "b"]
    assert Selection(cameras=("b", "a", "b")).camera_names(["a", "b"], ("a",), "x") == ["b", "a"]
    for bad in (Selection(first=4), Selection(first=-1), Selection(step=0), Selection(last=-1), Selection(first=2, last=2)):
        with pytest.raises(UserError, match="x"):
            bad.frames(4, "x")
    for cameras in ((), ("d",), ("a", "d")):
        with pytest.raises(UserError, match="choose among a, b"):
            Selection(cameras=cameras).camera_names(["a", "b"], ("a",), "The recording x")


def test_points_one_after_the_other():
    some = Points(np.ones((2, 3), np.float32), np.ones(2, np.float32), np.ones(2, np.uint8), np.zeros(2, np.uint8))
    both = Points.cat([some, some])
    assert len(both) == 4 and both.xyz.dtype == np.float32 and both.returns.dtype == np.uint8 and len(Points.cat([])) == 0
