"""Scenes whose actors are things of their own: drawn where their tracks say, edited, moved, saved and loaded."""

import json
import math
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.scene_graph import Node, SceneGraph
from chopgrad_ns.sim.sky import LOWEST, Sky
from chopgrad_ns.sim.tracked import TrackedGaussians
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render
from chopgrad_ns.splat.rolling import as_shown

FRAMES = 5


def turned(yaw: float, place=(0.0, 0.0, 0.0)) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose[:3, 3] = torch.tensor(place)
    return pose


def blob(count: int, seed: int, degree: int = 1) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    return Gaussians(rand(count, 3) * 0.5, rand(count, 3) * 0.2 - 1.5, rand(count, 4), rand(count) + 1,
                     rand(count, (degree + 1) ** 2, 3) * 0.4)


def moving(name: str, seed: int, present=None) -> Actor:
    draw = torch.Generator().manual_seed(seed)
    start, step = torch.randn(2, 3, generator=draw).double()
    start = torch.tensor([5.0, 0, 0]) + 0.5 * start
    poses = torch.stack([turned(0.3 * seed + 0.05 * t, (start + 0.3 * t * step).tolist()) for t in range(FRAMES)]).float()
    present = torch.ones(FRAMES, dtype=torch.bool) if present is None else torch.tensor(present)
    return Actor(name, "vehicle", torch.tensor([4.0, 2.0, 1.5]), poses, present)


def times() -> torch.Tensor:
    return torch.arange(FRAMES, dtype=torch.float64) / 10


def tracked(**placement) -> TrackedGaussians:
    actors = [moving("a", 1), moving("b", 2, [False, False, True, False, False]), moving("c", 3)]
    return TrackedGaussians(actors, [blob(7, 1), blob(5, 2), blob(3, 3)], times(), **placement)


def by_hand(module: TrackedGaussians, time: float) -> Gaussians:
    """Each actor by itself, in a loop, as `Gaussians.transformed` moves a splat."""
    parts = []
    for index, actor in enumerate(module.actors):
        known = [t for t in range(FRAMES) if actor.present[t]]
        if not times()[known[0]] <= time <= times()[known[-1]]:
            continue
        own = module.owner == index
        splat = Gaussians(*(getattr(module, name)[own] for name in ("means", "log_scales", "quats", "opacity_logits", "sh")))
        frame = min(range(FRAMES), key=lambda t: abs(float(times()[t]) - time))
        shift, turn = module.shift[index, frame], module.turn[index, frame]
        cos, sin = turn.cos(), turn.sin()
        correction = torch.eye(4)
        correction = torch.stack([torch.stack([cos, -sin, 0 * cos, shift[0]]), torch.stack([sin, cos, 0 * cos, shift[1]]),
                                  torch.stack([0 * cos, 0 * cos, 1 + 0 * cos, shift[2]]), correction[3]])
        parts.append(splat.transformed(actor.world_from_actor[frame] @ correction))
    return Gaussians.merged(parts)


def camera(time: float = 0.0, count: int = 1) -> Cameras:
    """At the origin, looking along +x with +z up."""
    axes = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    K = torch.tensor([[30.0, 0, 24], [0, 30, 16], [0, 0, 1]])
    return Cameras(axes.repeat(count, 1, 1), K.repeat(count, 1, 1), 48, 32, torch.full((count,), time))


@pytest.mark.parametrize("frame", [0, 2, 4])
def test_actors_are_where_their_tracks_say(frame):
    module = tracked()
    with torch.no_grad():
        module.shift.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
        module.turn.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    time = float(times()[frame])
    drawn, slow = module.at(time), by_hand(module, time)
    assert len(drawn) == len(slow) == (15 if frame == 2 else 10)
    for name in ("means", "log_scales", "opacity_logits", "sh"):
        torch.testing.assert_close(getattr(drawn, name), getattr(slow, name), rtol=1e-4, atol=1e-5)
    # Of either sign and any length, quaternions are the same rotations.
    a, b = (torch.nn.functional.normalize(splat.quats, dim=1) for splat in (drawn, slow))
    torch.testing.assert_close((a * b).sum(dim=1).abs(), torch.ones(len(a)), rtol=0, atol=1e-5)


def test_gradients_reach_gaussians_and_tracks():
    module, weights = tracked(), torch.randn(15, 3, generator=torch.Generator().manual_seed(0))
    names = [name for name, _ in module.named_parameters()]
    found = []
    for draw in (module.at, lambda time: by_hand(module, time)):
        module.zero_grad()
        (draw(0.2).means * weights).sum().backward()
        found.append({name: getattr(module, name).grad.clone() for name in names if getattr(module, name).grad is not None})
    assert {"means", "shift", "turn"} <= set(found[0]) and found[0]["turn"].abs().max() > 0.1
    for name in ("means", "shift", "turn"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)
    other = tracked()
    (other.at(0.2).means * weights).sum().backward()
    assert other.shift.grad[:, 2].abs().min() > 0 and not other.shift.grad[:, [0, 1, 3, 4]].any()


def test_between_frames_actors_are_between_their_boxes():
    module = tracked()
    early, middle, late = (module.at(time).means[:7] for time in (0.1, 0.15, 0.2))
    torch.testing.assert_close(middle, (early + late) / 2, atol=2e-3, rtol=0)
    assert (early - late).norm(dim=1).min() > 0.05


@pytest.mark.parametrize("readout", [(0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)])
def test_lines_of_a_rolling_shutter_see_actors_where_they_are_then(readout):
    """Beside a search for the line that shows each, with the camera and the actors where they are in every line."""
    module, velocity = tracked(scale=0.5), torch.tensor([0.3, -0.2, 1.0])
    actors = module.actors
    scene = SceneGraph(blob(0, 0), times(), {actor.name: Node(actor, module.splat_of(k)) for k, actor in enumerate(actors)})
    scene = scene.transformed(torch.eye(3), torch.zeros(3), 0.5)
    eye = replace(camera(0.15), readout=torch.tensor([readout]), motion=torch.cat([velocity, torch.zeros(3)])[None])

    def pixels(means: torch.Tensor, delay) -> torch.Tensor:
        local = means @ eye.camera_from_world[0, :3, :3].T - delay * velocity
        return 30 * local[:, :2] / local[:, 2:] + torch.tensor([24.0, 16.0])

    size, count = torch.tensor([48.0, 32.0]), len(module.at(0.15))
    truth = torch.zeros(count, 2)
    for index in range(count):
        delay = 0.0
        for _ in range(20):
            truth[index] = pixels(scene.at_time(0.15 + delay).means[index:index + 1], delay)[0]
            delay = float((truth[index] / size - 0.5).clamp(-0.6, 0.6) @ torch.tensor(readout))
    still = pixels(as_shown(scene.at_time(0.15).means, eye), 0)
    assert (still - truth).norm(dim=1).max() > 0.2, "what actors move on by while they are exposed shows"
    for drawn in (scene.at(eye), module.at(0.15, eye)):
        assert (pixels(as_shown(drawn.means, eye), 0) - truth).norm(dim=1).max() < 0.05
    torch.testing.assert_close(scene.at(eye.still()).means, scene.at_time(0.15).means)
    assert torch.equal(module.at(0.15, eye.still()).means, module.at(0.15).means)


def test_the_world_that_is_drawn_can_be_another():
    translation, scale = torch.tensor([1.0, -2, 0.5]), 0.25
    plain, placed = tracked().at(0.2), tracked(translation=translation, scale=scale).at(0.2)
    matrix = torch.diag(torch.tensor([scale, scale, scale, 1.0]))
    matrix[:3, 3] = scale * translation
    expected = plain.transformed(matrix)
    for name in ("means", "log_scales", "sh"):
        torch.testing.assert_close(getattr(placed, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def graph(sky: bool = True) -> SceneGraph:
    background = blob(40, 9, degree=2)
    background.means[:, 0] += 9
    nodes = {name: Node(moving(name, seed), blob(10, seed)) for seed, name in ((1, "a"), (2, "b"))}
    colors = torch.rand(3, 6, 12, generator=torch.Generator().manual_seed(4))
    return SceneGraph(background, times(), nodes, Sky(colors) if sky else None)


def picture(scene: SceneGraph, time: float = 0.2) -> torch.Tensor:
    return render(scene, camera(time)).rgb


def test_hidden_actors_are_not_drawn_and_come_back():
    scene = graph()
    before, changed = picture(scene), scene.copy()
    changed.hide("a")
    assert (picture(changed) - before).abs().max() > 0.05 and torch.equal(picture(scene), before)
    only_b = SceneGraph(scene.background, scene.frame_times, {"b": scene.nodes["b"]}, scene.sky)
    torch.testing.assert_close(picture(changed), picture(only_b))
    changed.show("a")
    assert torch.equal(picture(changed), before)
    changed.remove("a")
    assert changed.names() == ["b"] and scene.names() == ["a", "b"]


def test_moved_retimed_and_replaced_actors():
    scene = graph()
    place = lambda s, name="a", time=0.2: s.nodes[name].pose(s.frame_times, time)  # noqa: E731
    changed = scene.copy()
    changed.move("a", turned(0.0, (0.0, 1.0, 0.0)).float())
    left = place(scene)[:3, 1]
    torch.testing.assert_close(place(changed)[:3, 3], place(scene)[:3, 3] + left)
    changed = scene.copy()
    changed.retime("a", start=0.1, speed=0.5)
    torch.testing.assert_close(place(changed), place(scene, time=0.2))
    torch.testing.assert_close(place(changed, time=0.4), place(scene, time=0.3))
    changed.retime("a", start=0.0, speed=3.0)
    assert place(changed, time=0.4) is None and picture(changed, 0.4).isfinite().all()
    changed = scene.copy()
    changed.replace("a", blob(4, 7), torch.tensor([6.0, 2.2, 2.5]))
    bottom = lambda s: float(place(s)[2, 3] - s.nodes["a"].actor.size[2] / 2)  # noqa: E731
    assert bottom(changed) == pytest.approx(bottom(scene), abs=1e-5) and len(changed.nodes["a"].splat) == 4
    changed.put("a", scene.nodes["b"].actor.world_from_actor)
    torch.testing.assert_close(place(changed), place(scene, "b"))
    changed.insert("new", Node(moving("new", 3), blob(3, 3)))
    assert changed.names() == ["a", "b", "new"]


def test_actors_for_the_times_of_cameras():
    scene = graph()
    scene.hide("b")
    (a, b) = scene.actors_at(torch.tensor([0.0, 0.25, 3.0]))
    assert a.present.tolist() == [True, True, False] and not b.present.any()
    torch.testing.assert_close(a.world_from_actor[1], scene.nodes["a"].pose(scene.frame_times, 0.25))


def test_a_moved_world_looks_the_same():
    scene = graph()
    rotation, translation, scale = turned(0.8)[:3, :3].float(), torch.tensor([3.0, -1, 2]), 0.2
    moved = scene.transformed(rotation, translation, scale)
    eye = camera(0.25)
    world = eye.world_from_camera[0]
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation @ world[:3, :3], scale * (rotation @ world[:3, 3] + translation)
    other = Cameras(torch.linalg.inv(pose)[None], eye.K, eye.width, eye.height, eye.times)
    a, b = render(scene, eye), render(moved, other)
    torch.testing.assert_close(a.alpha, b.alpha, atol=2e-3, rtol=0)
    torch.testing.assert_close(scale * a.depth, b.depth, atol=2e-2, rtol=0)
    # The sky is sampled anew: coarse, it differs a little.
    assert (a.rgb - b.rgb).abs().mean() < 0.05 < (a.rgb - render(moved, eye).rgb).abs().mean()


def test_saved_scenes_are_the_same_and_files_of_others_stay(tmp_path):
    scene = graph()
    scene.hide("b")
    scene.retime("a", 0.1, 0.5)
    scene.save(tmp_path / "scene")
    read = SceneGraph.load(tmp_path / "scene")
    torch.testing.assert_close(picture(read), picture(scene), atol=1e-4, rtol=0)  # poses are kept to the micrometre
    assert read.names() == ["a", "b"] and not read.nodes["b"].shown
    scene.remove("b")
    scene.save(tmp_path / "scene")
    assert SceneGraph.load(tmp_path / "scene").names() == ["a"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds no scene"):
        scene.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_scene_at_a_time_is_a_splat_file(tmp_path):
    scene = graph()
    scene.export_ply(tmp_path / "now.ply", 0.2)
    torch.testing.assert_close(Gaussians.load(tmp_path / "now.ply").means, scene.at_time(0.2).means)
    assert (scene.at_time(0.0).means - scene.at_time(0.2).means).abs().max() > 0.05


def damage(name: str, change):
    def apply(folder):
        about = json.loads((folder / name).read_text())
        change(about)
        (folder / name).write_text(json.dumps(about))
    return apply


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "scene.json").unlink(), "cannot be read"),
    (lambda folder: (folder / "scene.json").write_text("{"), "cannot be read"),
    (damage("scene.json", lambda about: about.update(format=99)), "format 99"),
    (damage("scene.json", lambda about: about["actors"].pop()), "name other actors"),
    (damage("scene.json", lambda about: about["frame_times"].pop()), "5 poses for the 4 frames"),
    (lambda folder: (folder / "sky.safetensors").write_bytes(b"12"), "cannot be read"),
    (lambda folder: (folder / "actors" / "0001.ply").unlink(), "0001.ply"),
    (lambda folder: (folder / "actors.json").unlink(), "actors.json"),
])
def test_damaged_scenes_are_refused_in_a_sentence(tmp_path, spoil, words):
    graph().save(tmp_path / "scene")
    spoil(tmp_path / "scene")
    with pytest.raises(UserError, match=words) as refusal:
        SceneGraph.load(tmp_path / "scene")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("edit", [
    lambda s: s.hide("nobody"), lambda s: s.remove("nobody"), lambda s: s.move("a", torch.eye(4) * 2),
    lambda s: s.put("a", torch.eye(4).repeat(3, 1, 1)), lambda s: s.move("a", torch.full((4, 4), math.nan)),
    lambda s: s.insert("a", s.nodes["a"]), lambda s: s.insert("x", Node(moving("x", 1)[[0, 1]], blob(2, 1))),
])
def test_edits_that_make_no_sense_are_refused(edit):
    scene = graph()
    before = picture(scene)
    with pytest.raises(UserError):
        edit(scene)
    assert torch.equal(picture(scene), before)


def test_cameras_without_times_see_no_actors():
    eye = camera()
    with pytest.raises(ValueError, match="times"):
        graph().at(Cameras(eye.camera_from_world, eye.K, eye.width, eye.height))


# The sky.

def test_the_sky_is_looked_up_by_direction():
    colors = torch.rand(3, 10, 24, generator=torch.Generator().manual_seed(2))
    sky, eye = Sky(colors), camera()
    seen = sky.seen_by(eye).detach()
    for row, column in ((0, 0), (3, 40), (16, 24), (31, 47)):
        x, y, z = 1.0, -(column + 0.5 - 24) / 30, -(row + 0.5 - 16) / 30  # the camera looks along +x
        azimuth, elevation = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))
        at = (azimuth + 180) / 360 * 24 - 0.5
        line = min(max((90 - max(elevation, LOWEST)) / (90 - LOWEST) * 10 - 0.5, 0), 9)
        left, above = math.floor(at), min(math.floor(line), 8)
        mix = lambda r: (1 - at + left) * colors[:, r, left % 24] + (at - left) * colors[:, r, (left + 1) % 24]  # noqa: E731
        torch.testing.assert_close(seen[:, row, column], (1 - line + above) * mix(above) + (line - above) * mix(above + 1),
                                   atol=1e-4, rtol=0)


def test_the_sky_closes_behind_and_can_be_trained():
    sky = Sky(torch.zeros(3, 6, 12))
    with torch.no_grad():
        sky.colors[:, :, 0], sky.colors[:, :, -1] = 1.0, 1.0
    back = torch.tensor([[[-1.0, 1e-3, 0.1], [-1.0, -1e-3, 0.1]]])
    torch.testing.assert_close(sky.toward(back).detach(), torch.ones(3, 1, 2), atol=1e-2, rtol=0)
    sky.seen_by(camera()).sum().backward()
    assert sky.colors.grad[:, :, 6].abs().sum() > 0 and not sky.colors.grad[:, :, 0].any()
    assert Sky.of_one_color(torch.rand(3)).roughness().detach() < 1e-12 < sky.roughness().detach()
    with pytest.raises(ValueError, match="shape"):
        Sky(torch.zeros(4, 6))
