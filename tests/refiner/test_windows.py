"""Windows and tiles: what covers what, what the blend does to a pass that is known, and to the real refiner."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F

from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.references import blend_baseline
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.model import collate
from chopgrad_ns.refiner.windows import Windows, crop, fade, refine_stream, runs
from chopgrad_ns.splat.cameras import Cameras
from tests.refiner.clips import pair, stir

SIZES = [(23, 17, 31), (1, 8, 8), (9, 40, 40), (70, 16, 16), (40, 33, 57), (5, 5, 70)]
SMALL = Windows(17, 6, (24, 20), 7)


def refine(one_pass, clip: Clip, windows: Windows, *factors: int) -> torch.Tensor:
    """All frames of `refine_stream`."""
    return torch.stack(list(refine_stream(one_pass, clip.__getitem__, len(clip), windows, *factors)))


def some_runs():
    """Lengths, longest runs, overlaps, units and extras of every kind."""
    draw = random.Random(0)
    for _ in range(400):
        unit, extra, longest = draw.choice([1, 4, 8, 16]), draw.choice([0, 1]), draw.randint(40, 90)
        yield draw.randint(1, 500), longest, draw.randint(0, longest // 2 - 16), unit, extra


@pytest.mark.parametrize("unit", [1, 4, 8, 16])
def test_runs_cover_everything_evenly_and_on_the_grid(unit):
    for length, longest, overlap, each, extra in some_runs():
        if each != unit:
            continue
        parts = runs(length, longest, overlap, unit, extra, "frames")
        sizes = {part.stop - part.start for part in parts[:-1]}
        assert parts[0].start == 0 and parts[-1].stop == length and len(sizes) <= 1
        assert len(parts) == 1 or max(part.stop - part.start for part in parts) <= longest
        assert all(part.start % unit == 0 for part in parts) and all((size - extra) % unit == 0 for size in sizes)
        steps = [after.start - before.start for before, after in itertools.pairwise(parts)]
        shared = [before.stop - after.start for before, after in itertools.pairwise(parts)]
        assert all(count >= overlap for count in shared)
        assert max(steps, default=0) - min(steps, default=0) <= unit, "none is left over short"
        # Fewer, or shorter by one unit, would not do.
        usable = (longest - extra) // unit * unit + extra
        least = max(overlap, extra) + unit - 1
        assert len(parts) <= 1 + -(-(length - usable) // (usable - least)) if length > usable else len(parts) == 1


def test_weights_sum_to_one_at_every_place():
    for length, longest, overlap, unit, extra in some_runs():
        parts = runs(length, longest, overlap, unit, extra, "frames")
        total, used = torch.zeros(length), torch.zeros(length)
        for index, part in enumerate(parts):
            weight = fade(parts, index)
            assert weight.min() >= 0 and weight.max() > 0
            total[part] += weight
            used[part] += weight > 0
        torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)
        assert used.max() <= 2, "no place is a mixture of three"


def test_a_ramp_is_straight():
    parts = runs(69, 49, 8, 4, 1, "frames")
    assert parts == [slice(0, 41), slice(28, 69)]
    ramp = torch.arange(1, 14) / 14
    torch.testing.assert_close(fade(parts, 1), torch.cat([ramp, torch.ones(28)]))
    torch.testing.assert_close(fade(parts, 0), torch.cat([torch.ones(28), 1 - ramp]))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("windows", [SMALL, Windows(17, 0, (24, 20), 0), Windows(9, 4), Windows(500, 8, (500, 24))])
def test_a_pass_of_single_pixels_does_not_show_windows(shape, windows):
    """It sees frames, references and confidences, which must be cut alike."""
    clip = pair(*shape).degraded
    windowed = refine(blend_baseline, clip, windows, 4, 8)
    assert (windowed - clip.frames).abs().max() > 0.01
    torch.testing.assert_close(windowed, blend_baseline(clip), atol=1e-6, rtol=0)


def blocks(clip: Clip) -> torch.Tensor:
    """Means of 8 × 8 px, after padding as the refiner pads: what a strided encoder sees in one pass."""
    height, width = clip.frames.shape[-2:]
    padded = F.pad(clip.frames, (0, -width % 8, 0, -height % 8), mode="replicate")
    mean = F.avg_pool2d(padded, 8)
    return mean.repeat_interleave(8, -2).repeat_interleave(8, -1)[..., :height, :width]


@pytest.mark.parametrize("shape", SIZES)
def test_tiles_are_on_the_grid_of_one_pass(shape):
    clip = pair(*shape).degraded
    torch.testing.assert_close(refine(blocks, clip, SMALL, 4, 8), blocks(clip), atol=1e-6, rtol=0)


def test_windows_are_on_the_grid_of_one_pass():
    """Frames 4k + 1 … 4k + 4 share a latent, in the clip and in every window; a window's first frame is alone."""
    def groups(clip: Clip) -> torch.Tensor:
        first, rest = clip.frames[:1], clip.frames[1:]
        mean = rest.unflatten(0, (-1, 4)).mean(dim=1).repeat_interleave(4, 0)
        return torch.cat([first, mean])

    clip = pair(45, 8, 8).degraded
    windowed, whole = refine(groups, clip, Windows(17, 5), 4, 8), groups(clip)
    starts = [part.start for part in Windows(17, 5).in_time(45, 4)]
    same = (windowed - whole).abs().flatten(1).amax(dim=1) < 1e-6
    assert len(starts) > 2 and same.tolist() == [number == 0 or number not in starts for number in range(45)]


class Offsets:
    """A pass that adds another number each time it is called."""

    def __init__(self, numbers):
        self.numbers = iter(numbers)

    def __call__(self, clip: Clip) -> torch.Tensor:
        return clip.frames + next(self.numbers)


def test_what_windows_disagree_about_is_spread_over_the_overlap():
    clip, windows = Clip(torch.zeros(100, 3, 4, 4)), Windows(25, 8)
    numbers = [0.0, 1.0, -0.5, 0.7, 0.6, 1.9]
    parts = windows.in_time(100, 4)
    assert len(parts) == len(numbers)
    refined = refine(Offsets(numbers), clip, windows, 4, 8)
    steps = refined.diff(dim=0).abs().flatten(1).amax(dim=1)
    at_a_seam = torch.zeros(99, dtype=torch.bool)
    for index, (before, after) in enumerate(itertools.pairwise(parts)):
        shared = slice(after.start - 1, before.stop)
        at_a_seam[shared] = True
        difference = abs(numbers[index + 1] - numbers[index])
        assert (steps[shared] > 0).all() and steps[shared].max() < difference / (before.stop - after.start)
    assert (steps[~at_a_seam] == 0).all()
    for before, after, number in zip([slice(0, 0), *parts], [*parts[1:], slice(100, 100)], numbers):
        alone = refined[before.stop:after.start]
        assert len(alone) and (alone == number).all(), "between its neighbours a window is alone"


def test_what_tiles_disagree_about_is_spread_over_the_overlap():
    windows = Windows(9, 0, (32, 24), 8)
    rows, columns = windows.in_space(72, 88, 8)
    numbers = torch.rand(len(rows), len(columns), generator=torch.Generator().manual_seed(0))
    refined = refine(Offsets(numbers.flatten().tolist()), Clip(torch.zeros(1, 3, 72, 88)), windows, 4, 8)[0, 0]
    for axis, parts in ((0, rows), (1, columns)):
        steps, most = refined.diff(dim=axis).abs().amax(dim=1 - axis), numbers.diff(dim=axis).abs().amax(dim=1 - axis)
        assert len(parts) >= 3 and steps.max() > 0
        for index, (before, after) in enumerate(itertools.pairwise(parts)):
            shared = before.stop - after.start
            assert shared >= 8 and steps[after.start - 1:before.stop].max() < most[index] / shared


def test_frames_come_as_soon_as_they_are_done():
    clip, windows, asked = pair(60, 8, 8).degraded, Windows(17, 6), []
    stream = refine_stream(blend_baseline, lambda part: asked.append(part) or clip[part], 60, windows, 4, 8)
    parts = windows.in_time(60, 4)
    assert not asked, "nothing is read before it is asked for"
    frames = []
    for number, frame in enumerate(stream):
        frames.append(frame.clone())
        assert asked == [part for part in parts if part.start <= number], "read once, and not earlier than needed"
    torch.testing.assert_close(torch.stack(frames), blend_baseline(clip), atol=1e-6, rtol=0)


def test_memory_does_not_grow_with_length():
    """It is that of two windows, of the frames that two of them share, and of what is made of a tile."""
    windows, size = Windows(17, 6, (48, 48)), (3, 96, 96)

    def read(part: slice) -> Clip:
        return Clip(torch.zeros(part.stop - part.start, *size))

    def memory(length: int) -> int:
        def everything():
            for frame in refine_stream(lambda clip: clip.frames + 1, read, length, windows, 4, 8):
                assert frame.shape == size

        return peak_bytes(everything, torch.device("cpu"))

    frame, parts = 3 * 96 * 96 * 4, windows.in_time(405, 4)
    shared = max(before.stop - after.start for before, after in itertools.pairwise(parts))
    short, long = memory(45), memory(405)
    assert long <= 1.01 * short and 34 * frame < long < (34 + shared + 3 * 17 / 4) * frame


def test_progress_counts_passes():
    told = []
    for _ in refine_stream(lambda clip: clip.frames, pair(40, 40, 40).degraded.__getitem__, 40, Windows(17, 6, (24, 40)), 4, 8,
                           lambda done, all_of_them: told.append((done, all_of_them))):
        pass
    count = len(Windows(17, 6).in_time(40, 4)) * 2
    assert told == [(done, count) for done in range(count + 1)]


def test_cameras_of_a_part_see_the_part():
    """A point is at the same place of the picture, counted from the part's corner."""
    K = torch.tensor([[[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]]).expand(2, 3, 3)
    cameras = Cameras(torch.eye(4).expand(2, 4, 4), K, 40, 30)
    part = crop(Clip(torch.zeros(2, 3, 30, 40), cameras), slice(4, 20), slice(7, 37))
    point = torch.tensor([0.1, -0.2, 3.0])
    u, v, w = cameras.K[0] @ point
    u2, v2, w2 = part.cameras.K[0] @ point
    assert (u / w - u2 / w2, v / w - v2 / w2) == pytest.approx((7, 4), abs=1e-5)
    assert (part.cameras.width, part.cameras.height) == (30, 16)


@pytest.mark.parametrize("name", ["frames", "depth", "references", "alpha", "mask", "reference_masks", "photos"])
def test_a_frame_with_nan_is_named(name):
    clip = pair(40, 8, 8).degraded
    clip.mask, clip.photos = torch.ones(40, 1, 8, 8), torch.rand(3, 3, 12, 10)
    what, number = ("Photo", 2) if name == "photos" else ("Frame", 31)
    getattr(clip, name)[number, ..., 2, 3] = float("nan") if name in ("frames", "photos", "mask") else float("inf")
    with pytest.raises(UserError, match=rf"^{what} {number} of the clip has values in its {name} .*\.$"):
        refine(blend_baseline, clip, Windows(17, 6), 4, 8)


@pytest.mark.parametrize("settings, message", [
    ({"frames": 8, "overlap": 8}, "Windows of 8 frames cannot overlap by 8"),
    ({"frames": 9, "overlap": 12}, "Windows of 9 frames cannot overlap by 12"),
    ({"frames": 0, "overlap": 0}, "Windows of 0 frames"),
    ({"overlap": -1}, "cannot overlap by -1"),
    ({"tile": (64, 64), "tile_overlap": 64}, "Tiles of 64×64 px (height×width) cannot overlap by 64 px"),
    ({"tile": (0, 64)}, "Tiles of 0×64 px (height×width) are too small"),
])
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError) as caught:
        Windows(**settings)
    assert message in str(caught.value) and str(caught.value).count(". ") == 0 and str(caught.value).endswith(".")


def test_windows_too_small_for_the_model_are_refused():
    clip = pair(30, 40, 40).degraded
    with pytest.raises(UserError, match="^3 frames at a time .* give 5 or more"):
        refine(blend_baseline, clip, Windows(3, 0), 4, 8)
    with pytest.raises(UserError, match="^12 px at a time .* give 16 or more"):
        refine(blend_baseline, clip, Windows(9, 4, (12, 40), 2), 4, 8)


@pytest.fixture(scope="module")
def trained() -> Refiner:
    """The embedded one after a few seconds of training: it sharpens and takes the colour cast away."""
    refiner = Refiner(RefinerConfig())
    refiner.model.train()
    optimizer = torch.optim.AdamW(refiner.model.parameters(), 2e-3)
    for step in range(30):
        example = pair(9, 32, 32, seed=100 + step)
        refined = refiner.model(collate([refiner.task.prepare(example.degraded)], refiner.config, refiner.model.backbone))[0]
        optimizer.zero_grad()
        F.mse_loss(refined, example.clean).backward()
        torch.nn.utils.clip_grad_norm_(refiner.model.parameters(), 1.0)
        optimizer.step()
    refiner.model.eval()
    return refiner


def psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * F.mse_loss(frames, truth).log10())


class Seam:
    """Steps of the error, from place to place along an axis, where two runs fade and within `around` places on both sides."""

    def __init__(self, axis: int, before: slice, after: slice, around: int):
        self.axis, self.seam = axis, slice(after.start - 1, before.stop)
        self.surroundings = [*range(self.seam.start - around, self.seam.start), *range(self.seam.stop, self.seam.stop + around)]

    def steps(self, error: torch.Tensor) -> torch.Tensor:
        return error.diff(dim=self.axis).abs().transpose(0, self.axis).flatten(1).mean(dim=1)

    def beside_surroundings(self, error: torch.Tensor) -> float:
        """The largest step of the seam, in parts of the largest around it."""
        steps = self.steps(error)
        return float(steps[self.seam].max() / steps[self.surroundings].max())

    def beside(self, error: torch.Tensor, other: torch.Tensor) -> float:
        """By how much a step of the seam is larger than the same step of another error, at most."""
        return float((self.steps(error) / self.steps(other))[self.seam].max())


def check_seam(seam: Seam, blended: torch.Tensor, cut: torch.Tensor, whole: torch.Tensor) -> None:
    """No step is larger than around the seam or than in one pass; without the blend it would be, so that it would be seen."""
    assert seam.beside_surroundings(blended) < 1.05
    assert seam.beside(blended, whole) < 1.005 < seam.beside(cut, whole)


def test_121_frames_in_windows_are_as_good_as_in_one_pass(trained):
    """Of a walk into the open: what is seen in the end is four times as far away, and windows differ in their unit of depth."""
    example, parts = pair(121, 32, 32), Windows().in_time(121, 4)
    example.degraded.depth *= torch.linspace(1, 4, 121).view(-1, 1, 1, 1)
    clip, prepare = example.degraded, trained.task.prepare
    with torch.no_grad():
        whole = trained._pass(prepare(clip))
        cut = torch.cat([trained._pass(prepare(clip[part]))[:after.start - part.start]
                         for part, after in zip(parts, [*parts[1:], slice(121, 121)])])
    windowed = trained(clip)
    assert len(parts) == 3 and psnr(whole, example.clean) > psnr(clip.frames, example.clean) + 2
    assert abs(psnr(windowed, example.clean) - psnr(whole, example.clean)) < 0.5
    for before, after in itertools.pairwise(parts):
        check_seam(Seam(0, before, after, 10), *(frames - example.clean for frames in (windowed, cut, whole)))


def test_tiles_do_not_show(trained):
    example, windows = pair(5, 128, 128), Windows(9, 0, (64, 64), 8)
    clip, (rows, columns) = trained.task.prepare(example.degraded), windows.in_space(128, 128, 8)
    windowed, cut = refine(trained._pass, clip, windows, 4, 8), torch.empty_like(clip.frames)
    with torch.no_grad():
        whole = trained._pass(clip)
        for row, column in itertools.product(rows, columns):
            cut[..., row, column] = trained._pass(crop(clip, row, column))
    assert len(rows) == len(columns) == 3
    assert abs(psnr(windowed, example.clean) - psnr(whole, example.clean)) < 0.1
    for axis, parts in ((2, rows), (3, columns)):
        for before, after in itertools.pairwise(parts):
            check_seam(Seam(axis, before, after, 12), *(frames - example.clean for frames in (windowed, cut, whole)))
