"""Driving pairs: actors cut out of a drive and put back, beside the drive as it was.

What naive insertion gets wrong is made without anybody's help: outlines are ragged, sides that were hardly seen are
blurred, shadows are missing and the light on the actor is another one (Mirage; ChopGrad, section on driving).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from chopgrad_ns.data.actor_splat import LEAST_PIXELS, STANDING, fit_actor
from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.cleared import fill_holes, fit_cleared, hidden_pixels
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.references import REFERENCES, ReferencePhotos, choose_references
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, Progress
from chopgrad_ns.splat.gaussians import SH_C0, Gaussians
from chopgrad_ns.splat.rasterize import rasterize
from chopgrad_ns.splat.render import render, render_frames


@dataclass(frozen=True)
class Perturbation:
    """How far from the truth an actor is put back; each is drawn evenly between −x and x, once for an actor.

    Light is: an inserted vehicle brings its own along, and the clean frames show what it should be. Place is not,
    unless asked for: the clean frames show the actor where it was, and a refiner that learns from shifted ones learns
    to move vehicles. A few centimetres and hundredths of a radian, under a pixel or two, are what boxes are wrong by.
    """

    translation: float = 0.0
    """metres (world units), along the box's length and width"""
    yaw: float = 0.0
    """radians, about the box's vertical axis"""
    exposure: float = 0.4
    """stops: colours times 2 to the power of it"""
    tint: float = 0.06
    """natural logarithm of each channel's own factor"""

    def draw(self, splat: Gaussians, generator: torch.Generator) -> Gaussians:
        """The splat of an actor, in its box's frame, moved and recoloured."""
        forward, left, turn, stops, *tints = (2 * torch.rand(7, generator=generator, dtype=torch.float64) - 1).tolist()
        angle = turn * self.yaw
        pose = torch.eye(4, dtype=torch.float64)
        pose[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        pose[0, 3], pose[1, 3] = forward * self.translation, left * self.translation
        gain = 2 ** (stops * self.exposure) * (torch.tensor(tints) * self.tint).exp().to(splat.sh)
        sh = splat.sh * gain
        sh[:, 0] += 0.5 * (gain - 1) / SH_C0
        return replace(splat, sh=sh).transformed(pose)


def reinsertion_pair(
    views: Views, actors: Sequence[Actor], actor_ids: UInt8[Tensor, "t 1 h w"], name: str, settings: FitSettings,
    actor_steps: int | None = None, perturbation: Perturbation = Perturbation(), shadow: float = 0.7,
    references: int = REFERENCES, min_pixels: int = 64, progress: Progress | None = None,
    skipped: Callable[[str], None] | None = None,
) -> Pair:
    """Cut the actors out of a drive, put them back where they were, and pair that with the photos.

    The surroundings' splat is fitted without actors and shadows, each actor's in its own frame, and then the
    surroundings' a little more around the actors (`settle`). All are drawn together, so that each may hide the others.
    What no photo shows behind a parked actor is blurred from around it, but `alpha` is the splats' alone. The clip's
    `mask` is what is seen of the actors that were put back, 0…1; its `actor_ids` are those given, of the clean frames.
    Deterministic on the CPU for given inputs and `settings.seed`, which also draws the perturbation.

    Args:
        views: all frames of the drive, in order; `photos` are the clean frames.
        actors: poses of T frames each.
        actor_ids: which actor each pixel of the photos shows, 1 + its index, 0 for none.
        settings: of the surroundings' fit; an actor's is alike, but for `actor_steps` and what `fit_actor` says.
        actor_steps: training steps of each actor's splat; by default half of `settings.steps`.
        shadow: how far around an actor the ground is taken for shaded and left out, in heights of its box.
        references: photos of other frames warped into each; none is believed where either shows an actor or its
            shadow, for no photo shows what is inserted later. 0 for none.
        min_pixels: an actor that never covers as many pixels, or is seen in fewer than 3 frames, is left where it is
            if it stands still. If it moves it is missing from the clip, which is not `valid` there.
        skipped: told a sentence about each of those.

    Raises:
        ValueError: for actors or ids of other than T frames, and for ids that no actor has.
        UserError: if there is no actor to put back.
    """
    _check(views, actors, actor_ids)
    kept = _worth_it(actors, actor_ids, min_pixels, skipped)
    if not kept:
        raise UserError(f"No actor of {name} can be put back: none covers {min_pixels} pixels in one frame and "
                        f"{LEAST_PIXELS} in 3; take larger pictures or a drive with nearer actors.")
    actor_steps = actor_steps or max(settings.steps // 2, 1)
    settling = settings.steps // 4
    total = settings.steps + len(kept) * actor_steps + settling
    # Skipped ones that stand still are scenery like any other.
    lifted = [k for k, actor in enumerate(actors) if k in kept or actor.moves(STANDING * float(actor.size[0]))]
    cut, gone = actor_ids * _among(actor_ids, lifted), [actors[k] for k in lifted]
    hidden = hidden_pixels(gone, cut, views.cameras, shadow)
    report = _part(progress, 0, total, "surroundings")
    background = fit_cleared(views, gone, hidden, settings, shadow, report)
    empty = render(background, views.cameras)
    solid = torch.where(empty.alpha > 0.5, empty.depth, 0)
    placed: dict[int, tuple[Actor, Gaussians]] = {}
    for place, index in enumerate(kept):
        report = _part(progress, settings.steps + place * actor_steps, total, actors[index].name)
        try:
            splat = fit_actor(views, actors[index], cut, index, replace(settings, steps=actor_steps), solid, report)
            placed[index] = (actors[index], splat)
        except UserError as error:
            if skipped is not None:
                skipped(str(error))
    if not placed:
        raise UserError(f"No actor of {name} can be put back: the pixels of none are where its box is; check the "
                        "poses and the cameras.")
    clear = ~hidden | _among(cut, list(placed))
    report = _part(progress, total - settling, total, "together")
    background = settle(background, list(placed.values()), views, clear, settling, settings.seed, report)
    generator = torch.Generator().manual_seed(settings.seed)
    inserted = [(actor, perturbation.draw(splat, generator)) for actor, splat in placed.values()]
    clip = put_back(background, inserted, views.cameras)
    torn = hidden * (1 - clip.alpha)
    clip = replace(clip, frames=(clip.frames + torn * fill_holes(empty.rgb, empty.alpha)).clamp(0, 1),
                   actor_ids=actor_ids)
    if references:
        clip = with_references(clip, views, hidden, references)
    return Pair(clip, clean=views.photos, name=name, valid=_valid(list(placed), cut).to(views.photos))


@torch.no_grad()
def put_back(background: Gaussians, placed: Sequence[tuple[Actor, Gaussians]], cameras: Cameras) -> Clip:
    """Draw splats of actors, each in its box's frame, at their poses among the surroundings.

    Depth decides what hides what, for all Gaussians are drawn at once. `mask` is how much of a pixel the actors are.
    """
    frames = []
    for t in range(len(cameras)):
        scene = _scene(background, placed, t)
        (seen,) = render_frames(scene, cameras[t])
        inserted = (torch.arange(len(scene), device=scene.means.device) >= len(background)).to(scene.means)
        mask = _drawn(scene, cameras[t], inserted[:, None], None)
        frames.append((seen.rgb, seen.alpha, seen.depth, mask[None]))
    rgb, alpha, depth, mask = (torch.cat(parts) for parts in zip(*frames))
    return Clip(frames=rgb, cameras=cameras, alpha=alpha, depth=depth, mask=mask)


def settle(background: Gaussians, placed: Sequence[tuple[Actor, Gaussians]], views: Views,
           clear: Bool[Tensor, "t 1 h w"], steps: int, seed: int, progress: Progress | None = None) -> Gaussians:
    """The surroundings with Gaussians smaller or fainter that stand before actors although photos show those.

    Fitted without actors, they were free to: large ones of the road swallow half of a vehicle far away. Sizes and
    opacities alone are trained, with the actors in place, on the pixels in `clear`.
    """
    sizes, opacities = (value.clone().requires_grad_() for value in (background.log_scales, background.opacity_logits))
    optimizer = torch.optim.Adam([{"params": [sizes], "lr": 0.02}, {"params": [opacities], "lr": 0.05}], eps=1e-15)
    draw, order = random.Random(seed), []
    for step in range(steps):
        order = order or draw.sample(range(len(views)), len(views))
        t = order.pop()
        scene = _scene(replace(background, log_scales=sizes, opacity_logits=opacities), placed, t)
        shown = _drawn(scene, views.cameras[t], scene.sh, scene.sh_degree)
        loss = ((shown - views.photos[t]).abs() * clear[t]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, lambda: f"loss {loss.item():.4f}, {len(background)} Gaussians")
    return replace(background, log_scales=sizes.detach(), opacity_logits=opacities.detach())


def _scene(background: Gaussians, placed: Sequence[tuple[Actor, Gaussians]], t: int) -> Gaussians:
    return Gaussians.merged([background, *(splat.transformed(actor.world_from_actor[t])
                                           for actor, splat in placed if actor.present[t])])


def _drawn(scene: Gaussians, camera: Cameras, colors: Tensor, sh_degree: int | None) -> Float[Tensor, "x h w"]:
    camera = camera.to(scene.means)
    image, _, _ = rasterize(scene.means, scene.quats, scene.log_scales.exp(), scene.opacity_logits.sigmoid(), colors,
                            camera.camera_from_world, camera.K, camera.width, camera.height, sh_degree=sh_degree)
    return image[0].permute(2, 0, 1)


def _check(views: Views, actors: Sequence[Actor], actor_ids: Tensor) -> None:
    expected = (len(views), 1, *views.photos.shape[-2:])
    if actor_ids.shape != expected or actor_ids.dtype != torch.uint8:
        raise ValueError(f"actor_ids are {actor_ids.dtype} of shape {tuple(actor_ids.shape)}, not uint8 {expected}")
    if int(actor_ids.max()) > len(actors):
        raise ValueError(f"actor_ids name actor {int(actor_ids.max())}, and there are {len(actors)}")
    for actor in actors:
        if len(actor) != len(views):
            raise ValueError(f"actor {actor.name} has poses of {len(actor)} frames, and there are {len(views)}")


def _worth_it(actors, actor_ids, min_pixels: int, skipped: Callable[[str], None] | None) -> list[int]:
    """Indices of the actors that are put back; others that are seen at all are told of."""
    kept = []
    for index, actor in enumerate(actors):
        pixels = (actor_ids == index + 1).flatten(1).sum(dim=1) * actor.present.to(actor_ids.device)
        most, frames = int(pixels.max()), int((pixels >= LEAST_PIXELS).sum())
        if most >= min_pixels and frames >= 3:
            kept.append(index)
        elif most and skipped is not None:
            skipped(f"Actor {actor.name} is not cut out and put back: it covers {most} pixels at most and is seen well "
                    f"enough in {frames} frames; {min_pixels} and 3 are needed.")
    return kept


def with_references(clip: Clip, views: Views, hidden: Bool[Tensor, "t 1 h w"], count: int) -> Clip:
    """Photos of other frames, with no confidence where they or the clip show an actor or where its shadow may be."""
    bare = torch.where(hidden, 0, clip.depth)  # no depth, no belief in what a photo shows there
    choice = choose_references(clip.cameras, views.cameras, count, exclude=torch.arange(len(views)))
    photos = ReferencePhotos(views.photos, views.cameras, bare, choice)
    pictures, masks = photos.warp(clip.cameras, clip.depth, clip.alpha)
    masks = masks * (1 - clip.mask[:, None]).clamp(0, 1)
    return replace(clip, references=pictures * (masks > 0), reference_masks=masks)


def _among(actor_ids: UInt8[Tensor, "t 1 h w"], indices: Sequence[int]) -> Bool[Tensor, "t 1 h w"]:
    return torch.isin(actor_ids, torch.tensor([index + 1 for index in indices]).to(actor_ids))


def _valid(placed: list[int], cut: UInt8[Tensor, "t 1 h w"]) -> Float[Tensor, "t 1 h w"]:
    """0 where an actor was cut out and not put back, and two pixels around it."""
    missing = ((cut > 0) & ~_among(cut, placed)).float()
    return 1 - torch.nn.functional.max_pool2d(missing, 5, 1, 2)


def _part(progress: Progress | None, before: int, total: int, name: str) -> Progress | None:
    """Progress of one fit, told as that of all."""
    if progress is None:
        return None
    return lambda step, _, note: progress(before + step, total, lambda: f"{name}, {note()}")
