"""A small drive that nobody drove: noise for pictures and ranges, a rig that turns, climbs and rolls, boxes that move."""

import io

import numpy as np
from PIL import Image

from chopgrad_ns.data.drives.drive import Photo, RigCamera, Shutter, turns
from chopgrad_ns.data.drives.range_images import uniform_inclinations
from chopgrad_ns.sim.recording import Box, Frame, Lidar, Recording, Sweep

START = 1_553_629_304.276_125
STEP = 0.1
SIZE = {"FRONT": (48, 32), "FRONT_LEFT": (48, 32), "SIDE_LEFT": (48, 24)}
ANGULAR = np.array([0.1, -0.15, 0.3])


def euler(roll, pitch, yaw, place=(0, 0, 0)):
    """A pose by three turns in turn: about z, then the new y, then the new x."""
    pose = np.eye(4)
    pose[:3, :3] = turns(np.array([0, 0, yaw])) @ turns(np.array([0, pitch, 0])) @ turns(np.array([roll, 0, 0]))
    pose[:3, 3] = place
    return pose


def velocity(time):
    return np.array([12 * np.cos(0.3 * time), 12 * np.sin(0.3 * time), 0.5])


def vehicle(time, far=3000.0):
    """world_from_vehicle: some kilometres from the origin of the world, where real recordings are."""
    pose = euler(0.02, -0.03, 0.7)
    pose[:3, :3] = turns(time * ANGULAR) @ pose[:3, :3]
    pose[:3, 3] = [far + 40 * np.sin(0.3 * time), -far + 40 * (1 - np.cos(0.3 * time)), 60 + 0.5 * time]
    return pose


def roll_pitch_yaw(pose):
    turn = pose[:3, :3]
    return [np.arctan2(turn[2, 1], turn[2, 2]), -np.arcsin(turn[2, 0]), np.arctan2(turn[1, 0], turn[0, 0])]


def cameras():
    opencv = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    lens = {"FRONT": ("left", 0.0), "FRONT_LEFT": ("top", 0.8), "SIDE_LEFT": (None, 1.6)}
    return [RigCamera(name, *SIZE[name], np.array([[40.0, 0, 23.5], [0, 41, 15.2], [0, 0, 1]]),
                      np.array([0.05, -0.02, 0.003, -0.002, 0.004]), euler(0.01, 0.02, yaw, (1.5, 0.1, 2.1)) @ opencv, first)
            for name, (first, yaw) in lens.items()]


def lidars():
    beams = np.sort(np.random.default_rng(5).uniform(-0.3, 0.04, 16))[::-1]
    return [Lidar("TOP", euler(0.01, -0.02, 2.6, (1.4, 0, 2.2)), beams, 60),
            Lidar("FRONT", euler(0, 0.05, 0.1, (4, 0, 0.7)), uniform_inclinations(-1.5, 0.5, 10), 30, uniform=True)]


def picture(rng, size):
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(content, "jpeg")
    return content.getvalue()


def photos(frame, time):
    found = []
    for offset, (name, size) in zip((0.012, 0.03, -0.02), SIZE.items(), strict=True):
        taken = time + offset
        shutter = None if name == "SIDE_LEFT" else Shutter(taken - 0.014, taken + 0.016)
        found.append(Photo(name, frame, taken, vehicle(taken), f"{name} {frame}", velocity(taken), ANGULAR, shutter))
    return found


def sweeps(rng, time):
    found = []
    for lidar in lidars():
        shape = (len(lidar.inclinations), lidar.columns)
        images = [np.stack([rng.uniform(2, 70, shape), rng.random(shape), rng.random(shape), np.full(shape, -1)], -1)
                  for _ in range(2)]
        images[0][rng.random(shape) < 0.2] = -1
        images[1][rng.random(shape) < 0.8] = -1
        poses = None
        if lidar.name == "TOP":
            at = [vehicle(time + STEP * (column / shape[1] - 0.5)) for column in range(shape[1])]
            poses = np.array([[*roll_pitch_yaw(pose), *pose[:3, 3]] for pose in at])
            poses = np.broadcast_to(poses, (*shape, 6)).astype(np.float32)
        found.append(Sweep(lidar.name, tuple(image.astype(np.float32) for image in images), poses))
    return found


def boxes(frame, time):
    """Upright in the vehicle's frame, which is all that the format can say: one ahead, one that turns, one seen once."""
    local = {"ahead": ("vehicle", (4.5, 1.9, 1.6), euler(0, 0, 0.1, (12 + time, 0.5, 0.8))),
             "turning": ("cyclist", (1.8, 0.6, 1.7), euler(0, 0, 3 + 2 * time, (20, -4 + time, 0.9)))}
    if frame == 2:
        local["once"] = ("pedestrian", (0.7, 0.8, 1.8), euler(0, 0, -2, (9, 5, 0.9)))
    return [Box(name, kind, np.array(size), vehicle(time) @ pose, np.array([1.0, 2, 0]), 17)
            for name, (kind, size, pose) in local.items()]


def recording(count=5):
    """Each frame is made as it is asked for, and always the same."""
    def frames():
        for frame in range(count):
            rng, time = np.random.default_rng(frame), STEP * frame
            taken = photos(frame, time)
            yield Frame(time, vehicle(time), taken, [picture(rng, SIZE[photo.camera]) for photo in taken], sweeps(rng, time),
                        boxes(frame, time))
    return Recording("street_000", START, cameras(), lidars(), frames())
