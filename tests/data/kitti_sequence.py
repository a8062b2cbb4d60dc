"""A small sequence in the layout of KITTI odometry."""

import numpy as np
from PIL import Image

TR = np.array([[0.01, -0.9999, 0.001, -0.02], [0.002, -0.001, -1.0, -0.06], [0.9999, 0.01, 0.002, -0.33]])
"""Camera 0 from the velodyne, nearly a rotation as in the real files."""
K = np.array([[70.0, 0, 40.5], [0, 70, 14.5], [0, 0, 1]])
BASE = {"P0": 0.0, "P1": -0.54, "P2": 0.06, "P3": -0.47}
"""First component of t in K [1 | t]: metres."""
FRAMES = 5


def turned(matrix):
    """The nearest rotation."""
    u, _, v = np.linalg.svd(matrix)
    return u @ v


def camera0(frame):
    """World (camera 0's first frame) from camera 0: ahead along z, turning right a little."""
    angle, made = 0.03 * frame, np.eye(4)
    made[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    made[:3, 3] = 0.1 * frame, -0.01 * frame, 1.2 * frame
    return made


def scan(frame):
    """Points [N, 4] of the velodyne: a road and a wall ahead."""
    draw = np.random.default_rng(frame)
    road = np.stack([draw.uniform(3, 30, 400), draw.uniform(-8, 8, 400), np.full(400, -1.7), draw.random(400)], axis=1)
    wall = np.stack([np.full(200, 31.0 - 1.2 * frame), draw.uniform(-9, 9, 200), draw.uniform(-1.5, 2, 200), draw.random(200)],
                    axis=1)
    return np.concatenate([road, wall]).astype("<f4")


def write_sequence(root, name="03", cameras=("image_2", "image_3"), scans=True):
    folder = root / "sequences" / name
    tr = np.concatenate([turned(TR[:, :3]), TR[:, 3:]], axis=1)
    lines = [f"{key}: " + " ".join(f"{value:.12e}" for value in (K @ np.array([[1, 0, 0, base], [0, 1, 0, 0.0], [0, 0, 1, 0.0]])
                                                                 ).ravel()) for key, base in BASE.items()]
    for camera in cameras:
        (folder / camera).mkdir(parents=True)
        for frame in range(FRAMES):
            picture = np.full((30, 80, 3), 40 * frame + 10 * int(camera[-1]), np.uint8)
            picture[15:] = [120, 90, 60]
            Image.fromarray(picture).save(folder / camera / f"{frame:06}.png")
    if scans:
        (folder / "velodyne").mkdir()
        for frame in range(FRAMES):
            (folder / "velodyne" / f"{frame:06}.bin").write_bytes(scan(frame).tobytes())
        lines.append("Tr: " + " ".join(f"{value:.12e}" for value in tr.ravel()))
    (folder / "calib.txt").write_text("\n".join(lines) + "\n")
    (folder / "times.txt").write_text("".join(f"{0.1036 * frame + 5:.6e}\n" for frame in range(FRAMES)))
    (root / "poses").mkdir(exist_ok=True)
    (root / "poses" / f"{name}.txt").write_text(
        "".join(" ".join(f"{value:.9e}" for value in camera0(frame)[:3].ravel()) + "\n" for frame in range(FRAMES)))
    return root
