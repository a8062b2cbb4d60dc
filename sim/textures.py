"""Procedural surfaces of the sample worlds, baked to tileable pictures with mip levels.

A texture is painted once, [SIZE, SIZE, 3] in 0…1 and periodic in both directions, and looked up by surface
coordinates in metres. Detail goes from centimetres to metres, so that a splat has something to lose at every
scale. Which kinds of surface there are is in `PAINTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SIZE = 512
"""Texels along one period of a texture."""
LEVELS = 8
"""Mip levels: the last is SIZE / 2^7 = 4 texels wide."""

Rgb = tuple[float, float, float]
Picture = Float[np.ndarray, "size size 3"]
Field = Float[np.ndarray, "size size"]


def value_noise(rng: np.random.Generator, cells_u: int, cells_v: int | None = None) -> Field:
    """Periodic value noise in 0…1 with a lattice of `cells_v` × `cells_u` random values, blended by
    smoothstep.
    """
    cells_v = cells_v or cells_u
    lattice = rng.random((cells_v, cells_u), dtype=np.float32)

    def weights(cells: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.arange(SIZE, dtype=np.float32) * cells / SIZE
        cell = at.astype(int)
        fraction = at - cell
        return cell, fraction * fraction * (3 - 2 * fraction)

    row, fv = weights(cells_v)
    column, fu = weights(cells_u)
    along_v = lattice[row] * (1 - fv)[:, None] + lattice[(row + 1) % cells_v] * fv[:, None]
    return along_v[:, column] * (1 - fu) + along_v[:, (column + 1) % cells_u] * fu


def fractal(rng: np.random.Generator, cells: int = 4, octaves: int = 5, stretch: int = 1) -> Field:
    """Value noise summed over octaves, in 0…1; `stretch` > 1 makes streaks along u."""
    total, weight = np.zeros((SIZE, SIZE), np.float32), 0.0
    for octave in range(octaves):
        across = cells * 2**octave
        total += 0.6**octave * value_noise(rng, max(across // stretch, 1), across)
        weight += 0.6**octave
    return np.clip((total / weight - 0.5) * 1.6 + 0.5, 0, 1)


def _grid(count_u: int, count_v: int, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Cell indices (column, row) and the position inside the cell in 0…1, odd rows moved by `shift` cells."""
    v, u = np.meshgrid(np.arange(SIZE) / SIZE, np.arange(SIZE) / SIZE, indexing="ij")
    row, inside_v = np.divmod(v * count_v, 1)
    column, inside_u = np.divmod(u * count_u + shift * (row % 2), 1)
    return (column % count_u).astype(int), row.astype(int), inside_u, inside_v


def _mix(low: Rgb, high: Rgb, amount: Field) -> Picture:
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return low + (high - low) * amount[..., None]


def _per_cell(rng: np.random.Generator, column: np.ndarray, row: np.ndarray,
              spread: float) -> Float[np.ndarray, "s s 1"]:
    """A brightness factor for each cell of a grid."""
    factors = 1 + spread * (rng.random((row.max() + 1, column.max() + 1)) - 0.5) * 2
    return factors[row, column].astype(np.float32)[..., None]


def plaster(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Painted wall: clouds of colour, fine grain, hairline scratches."""
    picture = _mix(low, high, 0.6 * fractal(rng, 3) + 0.4 * fractal(rng, 32, 3))
    scratches = (np.abs(fractal(rng, 6, 4) - 0.5) < 0.008)[..., None]
    return picture * (1 - 0.25 * scratches)


def wallpaper(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Vertical stripes with a diamond motif in every other one."""
    column, _, u, v = _grid(8, 8)
    stripe = (column % 2).astype(np.float32)
    diamond = (np.abs(u - 0.5) + np.abs(v - 0.5) < 0.3) ^ (np.abs(u - 0.5) + np.abs(v - 0.5) < 0.16)
    amount = 0.75 * stripe + 0.5 * diamond * (1 - 2 * stripe * 0.9) + 0.25 * (fractal(rng, 24, 3) - 0.5)
    return _mix(low, high, np.clip(amount, 0, 1))


def bricks(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Running bond: every brick of its own shade, pale mortar."""
    column, row, u, v = _grid(6, 16, shift=0.5)
    body = _mix(low, high, 0.5 * fractal(rng, 24, 4) + 0.5 * fractal(rng, 4, 2))
    body = body * _per_cell(rng, column, row, 0.35)
    mortar = ((u < 0.045) | (v < 0.12))[..., None]
    return np.where(mortar, 0.62 + 0.2 * fractal(rng, 48, 2)[..., None], body)


def tiles(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Chequered tiles with veins and dark grout."""
    column, row, u, v = _grid(6, 6)
    veins = np.clip(1 - 14 * np.abs(fractal(rng, 5, 5) - 0.5), 0, 1)
    body = _mix(low, high, ((column + row) % 2).astype(np.float32)) * _per_cell(rng, column, row, 0.12)
    body = body * (1 - 0.35 * veins[..., None]) * (0.9 + 0.2 * fractal(rng, 32, 2)[..., None])
    grout = ((u < 0.03) | (v < 0.03))[..., None]
    return np.where(grout, 0.2, body)


def wood(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Planks along u with wavy grain, each cut from another place; dark joints."""
    column, row, u, v = _grid(2, 8, shift=0.5)
    warp = 3 * fractal(rng, 4, 3, stretch=4) + 9 * rng.random((8, 2))[row, column] + 2.5 * v
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * warp)
    body = _mix(low, high,
                np.clip(0.6 * grain + 0.5 * fractal(rng, 32, 3, stretch=16) - 0.1, 0, 1).astype(np.float32))
    joint = ((u < 0.008) | (v < 0.05))[..., None]
    return np.where(joint, 0.25, 1.0) * body * _per_cell(rng, column, row, 0.25)


def cobbles(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Rounded stones with dark gaps, cut out of a periodic Voronoi diagram."""
    count = 14
    v, u = np.meshgrid(np.arange(SIZE) * count / SIZE, np.arange(SIZE) * count / SIZE, indexing="ij")
    at, shade = 0.15 + 0.7 * rng.random((count, count, 2)), rng.random((count, count))
    nearest, second, stone = np.full_like(u, 9), np.full_like(u, 9), np.zeros_like(u)
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            row, column = v.astype(int) + dv, u.astype(int) + du
            place = at[row % count, column % count]
            distance = np.hypot(row + place[..., 0] - v, column + place[..., 1] - u)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            stone = np.where(closer, shade[row % count, column % count], stone)
            nearest = np.minimum(nearest, distance)
    edge = np.clip((second - nearest) * 5, 0, 1).astype(np.float32)[..., None]
    return _mix(low, high,
                (0.65 * stone + 0.35 * fractal(rng, 32, 3)).astype(np.float32)) * (0.25 + 0.75 * edge)


def grass(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Foliage and lawns: high contrast at every scale."""
    blades = np.clip(fractal(rng, 64, 3, stretch=2) * 1.5 - 0.25, 0, 1)
    return _mix(low, high,
                0.65 * blades + 0.35 * fractal(rng, 4, 4)) * (0.6 + 0.5 * fractal(rng, 16, 3)[..., None])


def metal(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Brushed along u, with stains."""
    return _mix(low, high, 0.6 * fractal(rng, 64, 3, stretch=32) + 0.4 * fractal(rng, 5, 4))


def fabric(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Woven rug: rows of random figures, mirrored as weavers do, with a band every quarter."""
    figures = rng.random((32, 16)) < 0.45
    figures = np.concatenate([figures, figures[:, ::-1]], axis=1)
    figures[::8] = True
    pattern = np.kron(figures, np.ones((SIZE // 32, SIZE // 32), np.float32))
    weave = 0.8 + 0.4 * value_noise(rng, 128) * (np.indices((SIZE, SIZE)).sum(0) // 2 % 2)
    return _mix(low, high, pattern) * weave[..., None]


def print_page(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Paper with lines of glyph-like marks, a headline and coloured figures."""
    ink = np.zeros((SIZE // 2, SIZE // 2), np.float32)
    for line in range(30, SIZE // 2 - 8, 8):
        glyphs = np.kron(rng.random((3, (SIZE // 2 - 24) // 2)) < 0.55, np.ones((2, 2)))
        words = np.kron(rng.random((SIZE // 2 - 24) // 8) < 0.85, np.ones(8))
        ink[line:line + 6, 12:12 + len(words)] = (glyphs * words)[:, :len(words)]
    ink[6:24, 16:-16] = np.kron(rng.random((6, SIZE // 4 // 6 * 2 - 4)) < 0.6,
                                np.ones((3, 6)))[:, :SIZE // 2 - 32]
    page = _mix(high, low,
                np.kron(ink, np.ones((2, 2), np.float32))) * (0.93 + 0.07 * fractal(rng, 8, 3)[..., None])
    figures = painting(rng, low, high)
    for _ in range(3):
        top, left, tall, wide = rng.integers([60, 20, 60, 80], [360, 300, 140, 200])
        page[top:top + tall, left:left + wide] = figures[top:top + tall, left:left + wide]
    return page


def painting(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Discs, bars and rings of random colours over a clouded ground."""
    picture = _mix(low, high, fractal(rng, 3, 4))
    v, u = np.ogrid[0:1:SIZE * 1j, 0:1:SIZE * 1j]
    for _ in range(22):
        center, color, radius = rng.random(2), rng.random(3).astype(np.float32), rng.uniform(0.04, 0.2)
        du, dv = u - center[0], v - center[1]
        angle, choice = rng.uniform(0, np.pi), rng.integers(3)
        if choice == 2:
            along, across = du * np.cos(angle) + dv * np.sin(angle), dv * np.cos(angle) - du * np.sin(angle)
            shape = (np.abs(along) < 2 * radius) & (np.abs(across) < 0.02)
        else:
            squared = du**2 + dv**2
            shape = (squared < radius**2) & (squared > (0.7 * radius * choice) ** 2)
        picture[shape] = color
    return (picture * (0.85 + 0.15 * fractal(rng, 64, 2)[..., None])).astype(np.float32)


def plain(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Lacquer, glass, rubber: one colour with a few specks of dust, and a slow change across."""
    amount = 0.7 * value_noise(rng, 2) + 0.3 * value_noise(rng, 128)
    return _mix(low, high, amount) * (1 - 0.3 * (value_noise(rng, 64) > 0.97)[..., None])


def asphalt(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """Coarse grain, mended patches, cracks."""
    picture = _mix(low, high, 0.45 * rng.random((SIZE, SIZE), dtype=np.float32) + 0.55 * fractal(rng, 8, 4))
    cracks = (np.abs(fractal(rng, 4, 5) - 0.5) < 0.006)[..., None]
    for _ in range(3):
        top, left, tall, wide = rng.integers([0, 0, 40, 40], [380, 380, 130, 130])
        picture[top:top + tall, left:left + wide] *= rng.uniform(0.7, 0.9)
    return picture * (1 - 0.55 * cracks)


def clouds(rng: np.random.Generator, low: Rgb, high: Rgb) -> Picture:
    """How much of the sky is cloud: patches with soft edges."""
    return _mix(low, high, np.clip((fractal(rng, 4, 6) - 0.45) * 3, 0, 1))


PAINTERS: dict[str, Callable[[np.random.Generator, Rgb, Rgb], Picture]] = {
    "plaster": plaster, "wallpaper": wallpaper, "bricks": bricks, "tiles": tiles, "wood": wood,
    "cobbles": cobbles, "grass": grass, "metal": metal, "fabric": fabric, "print": print_page,
    "painting": painting, "plain": plain, "asphalt": asphalt, "clouds": clouds}


@dataclass
class Material:
    """A painted texture, the metres that one period covers, the strength of its highlight in 0…1, and `mirror`, the
    share of light that it reflects as a mirror does where looked at squarely (glass 0.04, chrome 0.6).
    """

    picture: Picture
    period: float
    gloss: float = 0.0
    mirror: float = 0.0


def paint(kind: str, seed: int, low: Rgb, high: Rgb, period: float, gloss: float = 0.0,
          mirror: float = 0.0) -> Material:
    """Make a material of a kind from `PAINTERS` between two colours."""
    picture = PAINTERS[kind](np.random.default_rng(seed), low, high)
    return Material(np.clip(picture, 0, 1).astype(np.float32), period, gloss, mirror)


class Atlas:
    """All materials of a world with their mip levels, looked up for many points at once."""

    def __init__(self, materials: list[Material]):
        self.period = np.array([material.period for material in materials], np.float32)
        self.gloss = np.array([material.gloss for material in materials], np.float32)
        self.mirror = np.array([material.mirror for material in materials], np.float32)
        self.start = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS)])
        self.texels = np.concatenate([_levels(material.picture) for material in materials])

    def dress(self, material: int, picture: Picture) -> None:
        """Put another picture on a material; its period and gloss stay."""
        self.texels[material * self.start[-1]:(material + 1) * self.start[-1]] = _levels(picture.astype(np.float32))

    def look_up(self, material: Int[np.ndarray, "n"], uv: Float[np.ndarray, "n 2"],
                footprint: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
        """Colours in 0…1 at surface coordinates in metres, averaged over about `footprint` metres."""
        period = self.period[material]
        wanted = np.log2(np.maximum(footprint / period * SIZE, 1e-6)) + 0.3
        level = np.clip(np.rint(wanted), 0, LEVELS - 1).astype(np.int32)
        size = SIZE >> level
        base = material * self.start[-1] + self.start[level]
        at = uv / period[:, None] * size[:, None] - 0.5
        corner = np.floor(at).astype(np.int32)
        fu, fv = (at - corner).astype(np.float32).T
        u0, v0 = corner[:, 0] & (size - 1), corner[:, 1] & (size - 1)
        u1, v1 = (u0 + 1) & (size - 1), (v0 + 1) & (size - 1)
        color = self.texels[base + v0 * size + u0] * ((1 - fu) * (1 - fv))[:, None]
        color += self.texels[base + v0 * size + u1] * (fu * (1 - fv))[:, None]
        color += self.texels[base + v1 * size + u0] * ((1 - fu) * fv)[:, None]
        color += self.texels[base + v1 * size + u1] * (fu * fv)[:, None]
        return color


def _levels(picture: Picture) -> Float[np.ndarray, "texels 3"]:
    """Level after level, each a 2×2 average of the one before."""
    levels = [picture]
    for _ in range(LEVELS - 1):
        fine = levels[-1]
        rows = fine[::2] + fine[1::2]
        levels.append((rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25))
    return np.concatenate([level.reshape(-1, 3) for level in levels])
