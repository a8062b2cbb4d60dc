"""A driving scene whose actors are things of their own: what stands still, the sky, and actors on their tracks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.data.actors import Actor, read_actors, write_actors
from chopgrad_ns.data.drives.tracks import at_time
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import whole_folder
from chopgrad_ns.sim.sky import Sky
from chopgrad_ns.sim.tracked import INSTANT
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.rolling import carried

FORMAT = 1


@dataclass(frozen=True)
class Node:
    """An actor in a scene: its boxes over the scene's frames, its splat in the box's frame, and whether it is shown.

    `start` and `speed` re-time it: at time t of the scene it is where its track says for start + speed · t, seconds.
    """

    actor: Actor
    splat: Gaussians
    shown: bool = True
    start: float = 0.0
    speed: float = 1.0

    def pose(self, frame_times: Float[Tensor, "t"], time: float) -> Float[Tensor, "4 4"] | None:
        """world_from_actor at a time of the scene, None where it is not there (or not shown)."""
        pose, there = at_time(self.actor, frame_times, self.start + self.speed * time)
        return pose if there and self.shown else None

    def placed(self, frame_times: Float[Tensor, "t"], time: float, camera: Cameras | None = None) -> Gaussians | None:
        """Its splat in the world at a time of the scene, None where it is not there. Where the camera has a rolling shutter,
        each Gaussian is where it is when the line that shows it is exposed.
        """
        pose = self.pose(frame_times, time)
        if pose is None:
            return None
        splat = self.splat.transformed(pose)
        later = None if camera is None or camera.readout is None else self.pose(frame_times, time + INSTANT)
        if later is None:
            return splat
        drift = ((later - pose) / INSTANT).to(splat.means)
        velocity = self.splat.means @ drift[:3, :3].T + drift[:3, 3]
        return replace(splat, means=carried(splat.means, velocity, camera))


@dataclass
class SceneGraph:
    """Gaussians of what stands still, actors by name, and a sky; a `splat.render.Scene` that can be edited and saved.

    World: that of the cameras it was fitted to. `frame_times` [T] in seconds are those of the actors' boxes. Edits change
    this object; `copy` gives one that can be changed without changing this. All that take a name raise UserError for
    unknown ones.
    """

    background: Gaussians
    frame_times: Float[Tensor, "t"]
    nodes: dict[str, Node] = field(default_factory=dict)
    sky: Sky | None = None

    # Looking at it.

    def at(self, camera: Cameras) -> Gaussians:
        """All Gaussians at one camera's time, in the world. Raises ValueError without times, if there are actors."""
        if not self.nodes:
            return self.background
        if camera.times is None:
            raise ValueError("a scene with actors can only be seen by cameras with times")
        return self.at_time(float(camera.times[0]), camera)

    def at_time(self, time: float, camera: Cameras | None = None) -> Gaussians:
        """All Gaussians at a time in seconds, in the world; as the lines of a camera's rolling shutter see them."""
        placed = [node.placed(self.frame_times, time, camera) for node in self.nodes.values()]
        return Gaussians.merged([self.background, *(splat for splat in placed if splat is not None)])

    @torch.no_grad()
    def behind(self, camera: Cameras) -> Float[Tensor, "3 h w"] | None:
        """The sky as one camera sees it."""
        return None if self.sky is None else self.sky.seen_by(camera)

    def names(self) -> list[str]:
        """Names of the actors."""
        return list(self.nodes)

    def actors_at(self, times: Float[Tensor, "n"]) -> list[Actor]:
        """The shown actors with a pose for each of the times, of those of cameras for instance."""
        listed = []
        for name, node in self.nodes.items():
            eye = torch.eye(4).to(node.actor.world_from_actor)
            poses = [node.pose(self.frame_times, float(time)) for time in times]
            listed.append(Actor(name, node.actor.kind, node.actor.size, torch.stack([eye if p is None else p for p in poses]),
                                torch.tensor([p is not None for p in poses], dtype=torch.bool)))
        return listed

    # Editing.

    def copy(self) -> SceneGraph:
        """The same scene; edits of one do not show in the other."""
        return replace(self, nodes=dict(self.nodes))

    def hide(self, name: str) -> None:
        """Leave an actor out until `show`."""
        self._change(name, shown=False)

    def show(self, name: str) -> None:
        """Show an actor that was hidden."""
        self._change(name, shown=True)

    def remove(self, name: str) -> None:
        """Take an actor out for good."""
        self._node(name)
        del self.nodes[name]

    def move(self, name: str, by: Float[Tensor, "4 4"]) -> None:
        """Move an actor all along its track, by a rigid motion in the frame of its box: 1 m to its left, for instance.

        Raises UserError for what is not one.
        """
        _check_rigid(by[None], f"The motion of {name}")
        actor = self._node(name).actor
        self._change(name, actor=replace(actor, world_from_actor=actor.world_from_actor @ by.to(actor.world_from_actor)))

    def put(self, name: str, world_from_actor: Float[Tensor, "t 4 4"], present: Tensor | None = None) -> None:
        """Give an actor another track, a pose for each of the scene's frames. Raises UserError for what is none."""
        _check_rigid(world_from_actor, f"The track of {name}")
        if len(world_from_actor) != len(self.frame_times):
            raise UserError(f"The track of {name} has {len(world_from_actor)} poses, and the scene {len(self.frame_times)} "
                            "frames; give one for each.")
        actor = self._node(name).actor
        present = torch.ones(len(world_from_actor), dtype=torch.bool) if present is None else present
        self._change(name, actor=replace(actor, world_from_actor=world_from_actor.to(actor.world_from_actor), present=present))

    def retime(self, name: str, start: float = 0.0, speed: float = 1.0) -> None:
        """Let an actor be, at time t, where its track says for start + speed · t (seconds)."""
        self._change(name, start=float(start), speed=float(speed))

    def replace(self, name: str, splat: Gaussians, size: Float[Tensor, "3"] | None = None) -> None:
        """Put another thing in an actor's place: a splat in its box's frame (x forward, y left, z up, metres, the centre at
        the origin) of `size`; it stands on the same ground as the one before.
        """
        actor = self._node(name).actor
        size = actor.size if size is None else torch.as_tensor(size).to(actor.size)
        lift = torch.eye(4)
        lift[2, 3] = (size[2] - actor.size[2]) / 2
        self._change(name, splat=splat, actor=replace(actor, size=size, world_from_actor=actor.world_from_actor @ lift))

    def insert(self, name: str, node: Node) -> None:
        """Add an actor of as many frames. Raises UserError where the name is taken or the frames are others."""
        if name in self.nodes:
            raise UserError(f"There is an actor {name} already; give the new one another name.")
        if len(node.actor) != len(self.frame_times):
            raise UserError(f"{name} has {len(node.actor)} frames, and the scene {len(self.frame_times)}; give a pose for each.")
        self.nodes[name] = node

    def _node(self, name: str) -> Node:
        if name not in self.nodes:
            raise UserError(f"There is no actor {name}; choose among {', '.join(self.nodes) or 'none'}.")
        return self.nodes[name]

    def _change(self, name: str, **changes) -> None:
        self.nodes[name] = replace(self._node(name), **changes)

    # In another world, and on disk.

    def transformed(self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float) -> SceneGraph:
        """The scene in a world whose points are scale · (rotation · x + translation): nerfstudio's way of moving one."""
        whole = torch.eye(4)
        whole[:3, :3], whole[:3, 3] = scale * rotation, scale * translation
        grown = torch.diag(torch.tensor([scale, scale, scale, 1.0]))
        nodes = {name: replace(node, actor=node.actor.transformed(rotation, translation, scale),
                               splat=node.splat.transformed(grown)) for name, node in self.nodes.items()}
        sky = None if self.sky is None else self.sky.turned(rotation)
        return SceneGraph(self.background.transformed(whole), self.frame_times, nodes, sky)

    def save(self, folder: Path) -> None:
        """Write `background.ply`, `actors/0000.ply`, …, `actors.json`, `scene.json` and `sky.safetensors`; the folder appears,
        or replaces an older scene, when all is written.

        Raises UserError where something else is in the way.
        """
        folder = Path(folder)
        check_writable(folder)
        with whole_folder(folder) as unfinished:
            self.background.save(unfinished / "background.ply")
            (unfinished / "actors").mkdir()
            for index, node in enumerate(self.nodes.values()):
                node.splat.save(unfinished / "actors" / f"{index:04d}.ply")
            write_actors(unfinished / "actors.json", [replace(node.actor, name=name) for name, node in self.nodes.items()])
            if self.sky is not None:
                save_file({"colors": self.sky.colors.detach().contiguous()}, unfinished / "sky.safetensors")
            timing = [{"name": name, "shown": node.shown, "start": node.start, "speed": node.speed}
                      for name, node in self.nodes.items()]
            about = {"format": FORMAT, "frame_times": self.frame_times.double().tolist(), "actors": timing,
                     "sky": self.sky is not None}
            (unfinished / "scene.json").write_text(json.dumps(about, indent=1))

    @staticmethod
    def load(folder: Path) -> SceneGraph:
        """Read what `save` wrote. Raises UserError with what is wrong, where, and the remedy."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "scene.json").read_text())
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}, not {FORMAT}")
            frame_times = torch.tensor(about["frame_times"], dtype=torch.float64)
            timing = [(str(one["name"]), bool(one["shown"]), float(one["start"]), float(one["speed"]))
                      for one in about["actors"]]
            sky = Sky(load_file(folder / "sky.safetensors")["colors"]) if about["sky"] else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"The scene in {folder} cannot be read ({error}); save it again.") from error
        actors = read_actors(folder / "actors.json")
        if [actor.name for actor in actors] != [name for name, *_ in timing]:
            raise UserError(f"scene.json and actors.json in {folder} name other actors; save the scene again.")
        wrong = next((actor for actor in actors if len(actor) != len(frame_times)), None)
        if wrong is not None:
            raise UserError(f"Actor {wrong.name} in {folder / 'actors.json'} has {len(wrong)} poses for the {len(frame_times)} "
                            "frames of scene.json; save the scene again.")
        nodes = {name: Node(actor, Gaussians.load(folder / "actors" / f"{index:04d}.ply"), shown, start, speed)
                 for index, (actor, (name, shown, start, speed)) in enumerate(zip(actors, timing))}
        return SceneGraph(Gaussians.load(folder / "background.ply"), frame_times, nodes, sky)

    def export_ply(self, path: Path, time: float = 0.0) -> None:
        """All Gaussians at a time as one 3DGS file (PLY, compressed PLY or SPZ, by its name); without the sky."""
        self.at_time(time).save(path)


def check_writable(folder: Path) -> None:
    """Raise UserError where something is that `SceneGraph.save` would not replace."""
    if folder.exists() and not (folder.is_dir() and ((folder / "scene.json").exists() or not any(folder.iterdir()))):
        raise UserError(f"{folder} exists and holds no scene; name another folder.")


def _check_rigid(poses: Float[Tensor, "n 4 4"], what: str) -> None:
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not torch.isfinite(poses).all():
        raise UserError(f"{what} is not made of finite poses [4, 4]; give rotations and places.")
    turn = poses[:, :3, :3].double()
    skewed = (turn @ turn.transpose(1, 2) - torch.eye(3)).abs().amax() > 1e-3
    if skewed or (torch.linalg.det(turn) <= 0).any():
        raise UserError(f"{what} is not rigid; give rotations and places.")
