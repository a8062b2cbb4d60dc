"""Actors that are cut out and put back look like themselves, without their shadows, in surroundings without them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from chopgrad_ns.data.actor_splat import fit_actor
from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.boxes import box_depth, footprint, from_actor
from chopgrad_ns.data.cleared import fill_holes, fit_cleared, hidden_pixels
from chopgrad_ns.data.references import REFERENCES, lift
from chopgrad_ns.data.reinsertion import Perturbation, put_back, reinsertion_pair, settle
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat import Gaussians, render
from chopgrad_ns.splat.fit import FitSettings
from tests.data import street

FRAMES = 12
AS_IT_WAS = Perturbation(exposure=0, tint=0)
QUICK = FitSettings(steps=30)


def psnr(a, b, where):
    error = ((a - b) ** 2).mean(dim=1, keepdim=True)
    return float(-10 * torch.log10(error[where].mean()))


def inside(mask):
    """Without the pixels at its edge."""
    return -F.max_pool2d(-mask.float(), 3, 1, 1) > 0


@pytest.fixture(scope="module")
def drive():
    """Views, actors, ids, and the street's pictures without actors."""
    views, actors, ids = street.views(FRAMES)
    return views, actors, ids, street.pictures(views.cameras, [])[0]


@pytest.fixture(scope="module")
def pair(drive):
    views, actors, ids, _ = drive
    ticks = []
    made = reinsertion_pair(views, actors, ids, "street", FitSettings(steps=240), perturbation=AS_IT_WAS, shadow=1.5,
                            progress=lambda *tick: ticks.append(tick))
    assert [tick[:2] for tick in ticks] == [(step, 540) for step in range(1, 541)]
    assert ticks[-1][2]().startswith("together, loss")
    return made


def test_boxes_are_where_the_pictures_show_them(drive):
    views, actors, ids, _ = drive
    _, depth, _ = street.pictures(views.cameras, actors)
    for index, actor in enumerate(actors):
        cameras = from_actor(actor, views.cameras)
        z, own = box_depth(actor.size, cameras), ids == index + 1
        assert torch.allclose(z[own], depth[own], atol=1e-3)
        assert torch.isinf(z[(ids == 0) & (depth > 9)]).any() and (z[ids == 0] + 1e-3 >= depth[ids == 0]).all()


def test_footprint_is_where_pixels_meet_the_ground_near_the_box(drive):
    views, actors, _, _ = drive
    _, depth, _ = street.pictures(views.cameras, [])
    for actor in actors:
        shown = footprint(actor.size, from_actor(actor, views.cameras), 0.7)
        for t in (0, FRAMES - 1):
            local = lift(views.cameras[t], depth[t]) - actor.world_from_actor[t, :3, 3]
            local = local @ actor.world_from_actor[t, :3, :3]
            ground = (local[:, 2] + actor.size[2] / 2).abs() < 1e-3
            expected = ground & (local[:, :2].abs() <= actor.size[:2] / 2 + 0.7).all(dim=1)
            assert expected.sum() > 100 and (shown[t].flatten() == expected)[ground].float().mean() > 0.995


def test_shadows_are_hidden_and_the_rest_is_not(drive):
    views, actors, ids, empty = drive
    shadows = ((views.photos - empty).abs().amax(dim=1, keepdim=True) > 0.02) & (ids == 0)
    hidden = hidden_pixels(actors, ids, views.cameras, shadow=1.5)
    assert shadows.sum() > 300 and hidden[shadows].all() and hidden[ids > 0].all() and hidden.float().mean() < 0.6
    assert hidden_pixels(actors, ids, views.cameras, shadow=0)[shadows].float().mean() < 0.5


def test_actors_come_back_parked_and_moving(drive, pair):
    views, _, ids, empty = drive
    clip = pair.degraded
    for index, (all_of_it, interior) in enumerate([(18, 28), (19.5, 31)]):
        own = ids == index + 1
        assert psnr(clip.frames, views.photos, own) > max(all_of_it, psnr(empty, views.photos, own) + 9)
        assert psnr(clip.frames, views.photos, inside(own)) > interior
    shown = clip.mask > 0.5
    assert (shown & (ids > 0)).sum() > 0.88 * (shown | (ids > 0)).sum()
    assert clip.mask[inside(ids > 0)].mean() > 0.97 and clip.mask[ids == 0].mean() < 0.01
    assert torch.equal(clip.actor_ids, ids) and torch.equal(pair.clean, views.photos) and pair.valid.min() == 1


def test_surroundings_are_kept_and_shadows_are_not(drive, pair):
    views, actors, ids, empty = drive
    frames = pair.degraded.frames
    assert psnr(frames, views.photos, ~hidden_pixels(actors, ids, views.cameras, 1.5)) > 33
    shadows = ((views.photos - empty).abs().amax(dim=1, keepdim=True) > 0.1) & (ids == 0)
    assert psnr(frames, empty, shadows) > psnr(frames, views.photos, shadows) + 5


def test_references_believe_no_actor_and_no_shadow(drive, pair):
    views, actors, ids, _ = drive
    clip = pair.degraded
    assert clip.references.shape == (FRAMES, REFERENCES, 3, street.HEIGHT, street.WIDTH)
    shows_actor = (ids > 0)[:, None].expand_as(clip.reference_masks)
    assert clip.reference_masks[shows_actor].mean() < 0.005 < 0.3 < clip.reference_masks.mean()
    sure = clip.reference_masks[:, 0] > 0.9
    assert psnr(clip.references[:, 0], views.photos, sure) > 36
    without = reinsertion_pair(views, actors, ids, "street", QUICK, references=0)
    assert without.degraded.references is None


def test_surroundings_show_no_trace_of_the_actors(drive):
    views, actors, ids, empty = drive
    hidden = hidden_pixels(actors, ids, views.cameras, 1.0)
    cleared = fit_cleared(views, actors, hidden, FitSettings(steps=120), 1.0)
    shown = render(cleared, views.cameras)
    depth = street.pictures(views.cameras, [])[1]
    on_ground = torch.stack([lift(views.cameras[t], depth[t])[:, 2].reshape(depth[t].shape) < 1e-3
                             for t in range(FRAMES)])
    near = torch.stack([footprint(actor.size, from_actor(actor, views.cameras), 0.5) for actor in actors]).any(dim=0)
    missing = (ids > 0) & on_ground & near
    assert shown.alpha[missing].mean() > 0.97
    assert psnr(shown.rgb, empty, missing) > psnr(views.photos, empty, missing) + 7
    covered = fit_cleared(replace(views, photos=torch.where(hidden, 0.9, views.photos)), actors, hidden,
                          FitSettings(steps=120), 1.0)
    assert torch.equal(render(covered, views.cameras).rgb, shown.rgb)


def test_deterministic_for_a_seed_and_perturbed_for_another(drive):
    views, actors, ids, _ = drive

    def make(**more):
        return reinsertion_pair(views, actors, ids, "street", QUICK, references=0, **more).degraded

    usual, again, plain = make(), make(), make(perturbation=AS_IT_WAS)
    assert torch.equal(usual.frames, again.frames) and torch.equal(usual.mask, again.mask)
    shown = inside(plain.mask > 0.9)
    assert torch.equal(usual.mask, plain.mask), "by default only light differs"
    assert (usual.frames - plain.frames).abs().mean(dim=1, keepdim=True)[shown].mean() > 0.01
    bare = (plain.mask == 0).expand_as(plain.frames)
    assert bare.float().mean() > 0.5 and torch.equal(usual.frames[bare], plain.frames[bare])
    moved = make(perturbation=Perturbation(translation=0.5, yaw=0.1))
    assert (moved.mask - plain.mask).abs().mean() > 0.005


def test_perturbation_of_a_splat():
    generator = torch.Generator().manual_seed(0)
    splat = Gaussians.from_points(torch.rand(50, 3, generator=generator) - 0.5, torch.full((50, 3), 0.3), sh_degree=1)
    splat.opacity_logits[:] = 2.0
    camera = street.cameras(1)
    pose = torch.eye(4)
    pose[:3, 3] = camera.centers[0] + 3 * camera.camera_from_world[0, 2, :3]
    show = lambda x: render(x.transformed(pose), camera).rgb  # noqa: E731
    brighter = Perturbation(exposure=0.5, tint=0.1).draw(splat, torch.Generator().manual_seed(1))
    ratio = (show(brighter) / show(splat))[show(splat) > 0.05].reshape(-1)
    assert 2 ** -0.5 * 0.9 < ratio.min() <= ratio.max() < 2 ** 0.5 * 1.11 and (ratio - 1).abs().min() > 1e-3
    moved = Perturbation(translation=0.2, yaw=0.3, exposure=0, tint=0).draw(splat, torch.Generator().manual_seed(1))
    shift = moved.means.mean(0) - splat.means.mean(0)
    assert 0 < shift[:2].norm() < 0.5 and torch.allclose(moved.means[:, 2], splat.means[:, 2], atol=1e-6)
    assert torch.allclose(moved.sh[:, 0], splat.sh[:, 0]) and not torch.allclose(moved.quats, splat.quats)


def test_depth_decides_what_hides_what():
    generator = torch.Generator().manual_seed(0)
    sheet = lambda y, rgb: Gaussians(  # noqa: E731
        torch.rand(600, 3, generator=generator) * torch.tensor([6.0, 0, 4]) - torch.tensor([3.0, -y, 1]),
        torch.full((600, 3), -1.3), torch.tensor([[1.0, 0, 0, 0]]).repeat(600, 1), torch.full((600,), 3.0),
        torch.tensor(rgb).repeat(600, 1, 1))
    path = street.cameras(2)
    box = Actor("box", "vehicle", torch.ones(3), torch.eye(4).repeat(2, 1, 1), torch.tensor([True, False]))
    red, green = sheet(0.0, [1.0, -1, -1]), sheet(2.0, [-1.0, 1, -1])
    before, behind = (put_back(around, [(box, thing)], path) for around, thing in ((green, red), (red, green)))
    middle = slice(20, 30), slice(25, 45)
    assert before.mask[0, 0][middle].min() > 0.9 and behind.mask[0, 0][middle].max() < 0.1
    assert before.mask[1].max() == 0 and torch.equal(before.frames[1], render(green, path).rgb[1])


def test_what_stands_before_actors_in_no_photo_gives_way(drive):
    views, actors, ids, _ = drive
    generator = torch.Generator().manual_seed(0)
    box = Gaussians.from_points((torch.rand(800, 3, generator=generator) - 0.5) * actors[1].size,
                                torch.tensor([[0.1, 0.2, 0.9]]).repeat(800, 1), sh_degree=0)
    box.opacity_logits[:] = 4.0
    fog = Gaussians(torch.tensor([[0.0, -0.8, 0.2]]), torch.full((1, 3), -0.2), torch.tensor([[1.0, 0, 0, 0]]),
                    torch.tensor([4.0]), torch.zeros(1, 1, 3))
    placed = [(actors[1], box)]
    own = inside(ids == 2)
    cleared = settle(fog, placed, views, ids == 2, steps=60, seed=0)
    before, after = (put_back(around, placed, views.cameras).mask[own].mean() for around in (fog, cleared))
    assert before < 0.8 and after > before + 0.1
    assert torch.equal(cleared.means, fog.means) and torch.equal(cleared.sh, fog.sh)


def test_holes_are_filled_from_around():
    colours = torch.tensor([0.2, 0.5, 0.8])[None, :, None, None].expand(2, 3, 21, 34)
    alpha = torch.ones(2, 1, 21, 34)
    alpha[:, :, 5:15, 8:30] = 0
    assert torch.allclose(fill_holes(colours * alpha, alpha), colours, atol=1e-4)
    assert fill_holes(colours * 0, alpha * 0).max() == 0


def test_small_actors_are_named_and_left_out(drive):
    views, actors, ids, _ = drive
    ids, told = ids.clone(), []
    far = replace(actors[1], name="far")
    ids[:, :, 2:5, 2:5] = 3
    made = reinsertion_pair(views, [*actors, far], ids, "street", QUICK, references=0, skipped=told.append)
    assert len(told) == 1 and "far" in told[0] and "9 pixels" in told[0]
    expected = torch.ones_like(made.valid)
    expected[:, :, :7, :7] = 0
    assert torch.equal(made.valid, expected)
    parked = reinsertion_pair(views, [*actors, replace(actors[0], name="far")], ids, "street", QUICK, references=0,
                              skipped=told.append)
    assert parked.valid.min() == 1 and len(told) == 2, "one that stands still stays where it is"
    with pytest.raises(UserError, match="no frame shows 12 pixels"):
        fit_actor(views, far, ids, 2, QUICK)
    with pytest.raises(UserError, match="No actor of street"):
        reinsertion_pair(views, actors, ids.clamp_max(2), "street", QUICK, min_pixels=100_000)


def test_actors_whose_box_is_elsewhere_are_named_and_left_out(drive):
    views, actors, ids, _ = drive
    lost = actors[1].world_from_actor.clone()
    lost[:, 2, 3] += 40
    told = []
    made = reinsertion_pair(views, [actors[0], replace(actors[1], world_from_actor=lost)], ids, "street", QUICK,
                            references=0, skipped=told.append)
    assert len(told) == 1 and "moving" in told[0] and "box" in told[0]
    assert made.valid[ids == 2].max() == 0 and made.valid[:, :, -2:].min() == 1
    with pytest.raises(UserError, match="where its box is"):
        reinsertion_pair(views, [replace(actors[1], world_from_actor=lost)], (ids == 2).byte(), "street", QUICK)


def test_what_does_not_fit_together_is_refused(drive):
    views, actors, ids, _ = drive
    for given, match in [((actors, ids[1:]), "shape"), ((actors, ids.long()), "uint8"),
                         ((actors[:1], ids), "name actor 2"), (([actors[0][:4], actors[1]], ids), "4 frames")]:
        with pytest.raises(ValueError, match=match):
            reinsertion_pair(views, *given, "street", QUICK)
