"""`chopgrad refine`: videos, frames and pairs for every task, what it writes, and what it does with bad input."""

import json
import re
from fractions import Fraction

import av
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.cli.main import main
from chopgrad_ns.cli.refine_jobs import Job, Model, refine_all
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.clip_sources import video_clip
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.video import read_frames, write_frames, write_video
from chopgrad_ns.data.video_pairs import inpainting_pair
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.tasks import TASKS
from chopgrad_ns.refiner.windows import Windows
from tests.cli.refusals import refused
from tests.data.videos import numbered, write_file
from tests.refiner.clips import pair, stir
from tests.refiner.published import write_published

COUNT, HEIGHT, WIDTH = 18, 24, 32
CUT = ["--window", "13", "--overlap", "4", "--tile", "16x24", "--tile-overlap", "6"]
WINDOWS = Windows(13, 4, (16, 24), 6)
BITS = 1 / 255 + 1e-4
"""Pictures that are equal but for how 8 bit were rounded."""


@pytest.fixture(scope="module")
def refiners(tmp_path_factory):
    """A folder with a refiner of each task that does something to its frames."""
    folder = tmp_path_factory.mktemp("refiners")
    for task in TASKS:
        refiner = Refiner(RefinerConfig(task=task))
        stir(refiner.model, 0.05)
        refiner.save(folder / task)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A video, the same as frames, and masks of a box that moves: as PNG files with object numbers, and as a video."""
    folder = tmp_path_factory.mktemp("sources")
    frames = numbered(COUNT, HEIGHT, WIDTH)
    write_file(folder / "video.mp4", frames, fps=30)
    write_frames(folder / "frames", torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
    masks = torch.zeros(COUNT, 1, HEIGHT, WIDTH)
    for number, mask in enumerate(masks):
        mask[:, 4:16, 4 + number // 2:14 + number // 2] = 1
    (folder / "masks").mkdir()
    for number, mask in enumerate(masks[:, 0].byte().numpy()):
        Image.fromarray(3 * mask).save(folder / "masks" / f"{number:05d}.png")
    write_video(folder / "masks.mp4", masks.expand(-1, 3, -1, -1), 30)
    torch.save(masks, folder / "masks.pt")
    return folder


def run(source, output, *options):
    main(["refine", str(source), "--output", str(output), *map(str, options)])


def written(output) -> torch.Tensor:
    return read_frames(output / "frames")[1]


def by_hand(refiners, task: str, clip: Clip, size=None, windows: Windows = WINDOWS) -> torch.Tensor:
    """What the refiner makes of the clip in windows, which are tested elsewhere."""
    return Refiner.from_pretrained(refiners / task, task)(clip, size, windows)


def rate(path) -> Fraction:
    with av.open(str(path)) as container:
        return container.streams.video[0].average_rate


def test_a_video(refiners, sources, tmp_path, capsys):
    run(sources / "video.mp4", tmp_path / "out", "--refiner", refiners / "artifact-removal", *CUT)
    given = open_video(sources / "video.mp4").read()
    expected = by_hand(refiners, "artifact-removal", Clip(given))
    assert (expected - given).abs().mean() > 0.02
    torch.testing.assert_close(written(tmp_path / "out"), expected, atol=BITS, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["before_after.mp4", "frames", "refined.mp4"]
    assert rate(tmp_path / "out" / "refined.mp4") == 30, "as the source's"
    shown = imageio.imread(tmp_path / "out" / "before_after.mp4") / 255
    assert shown.shape == (COUNT, HEIGHT, 2 * WIDTH + 4, 3)
    both = torch.cat([given, expected], dim=-1).permute(0, 2, 3, 1).numpy()
    assert abs(np.delete(shown, slice(WIDTH, WIDTH + 4), axis=2) - both).mean() < 0.05, "each frame beside its own"
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{COUNT} frames of {WIDTH}×{HEIGHT} px in [\d.]+ s \([\d.]+ frames/s with reading and writing\), "
                        r"at most [\d.]+ GB (resident in the whole process|of GPU memory allocated); they are in .*out",
                        said[-1]), said


def test_a_folder_of_frames_is_the_same_video(refiners, sources, tmp_path):
    lossless = tmp_path / "video.mkv"
    write_file(lossless, numbered(COUNT, HEIGHT, WIDTH), codec="libx264", crf=1)
    run(sources / "frames", tmp_path / "out", "--refiner", refiners / "artifact-removal", *CUT, "--fps", 24)
    _, given = read_frames(sources / "frames")
    torch.testing.assert_close(written(tmp_path / "out"), by_hand(refiners, "artifact-removal", Clip(given)), atol=BITS, rtol=0)
    assert rate(tmp_path / "out" / "refined.mp4") == 24


def test_photos_of_the_same_place(refiners, sources, tmp_path):
    write_frames(tmp_path / "photos", torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)))
    run(sources / "frames", tmp_path / "out", "--refiner", refiners / "artifact-removal", "--photos", tmp_path / "photos", *CUT)
    given, photos = read_frames(sources / "frames")[1], read_frames(tmp_path / "photos")[1]
    with_photos, without = (by_hand(refiners, "artifact-removal", clip) for clip in (Clip(given, photos=photos), Clip(given)))
    torch.testing.assert_close(written(tmp_path / "out"), with_photos, atol=BITS, rtol=0)
    assert (with_photos - without).abs().max() > 2 * BITS


@pytest.mark.parametrize("options, size", [(["--scale", "1.5"], (36, 48)), (["--size", "29x41"], (29, 41))])
def test_super_resolution(refiners, sources, tmp_path, options, size):
    run(sources / "video.mp4", tmp_path / "out", "--task", "super-resolution", "--refiner", refiners / "super-resolution",
        "--window", 13, "--overlap", 4, "--tile", "32x32", *options)
    given = open_video(sources / "video.mp4").read()
    refined = written(tmp_path / "out")
    assert refined.shape == (COUNT, 3, *size)
    expected = by_hand(refiners, "super-resolution", Clip(given), size, Windows(13, 4, (32, 32)))
    torch.testing.assert_close(refined, expected, atol=BITS, rtol=0)
    assert (refined - F.interpolate(given, size, mode="bilinear")).abs().mean() > 0.02
    shown = imageio.imread(tmp_path / "out" / "before_after.mp4")
    assert shown.shape[1:3] == (size[0] + size[0] % 2, 2 * size[1] + 4), "the input is shown enlarged"


@pytest.mark.parametrize("where", ["masks", "masks.mp4", "box"])
def test_inpainting_leaves_the_rest_as_it_was(refiners, sources, tmp_path, where):
    mask = torch.load(sources / "masks.pt", weights_only=True)
    options = ["--masks", sources / where]
    if where == "box":
        options, mask = ["--box", "3,5,20,9"], torch.zeros_like(mask)
        mask[..., 5:14, 3:23] = 1
    run(sources / "frames", tmp_path / "out", "--task", "inpainting", "--refiner", refiners / "inpainting", *options, *CUT)
    given, refined = read_frames(sources / "frames")[1], written(tmp_path / "out")
    kept = (mask == 0).expand_as(given)
    assert torch.equal(refined[kept], given[kept])
    expected = by_hand(refiners, "inpainting", Clip(given, mask=mask))
    torch.testing.assert_close(refined, expected, atol=BITS, rtol=0)
    assert (refined - given).abs()[mask.expand_as(given) == 1].mean() > 0.02


def test_nothing_below_the_mask_shines_through(refiners, sources, tmp_path):
    given, mask = read_frames(sources / "frames")[1], torch.load(sources / "masks.pt", weights_only=True)
    write_frames(tmp_path / "other", torch.where(mask == 1, torch.rand(given.shape), given))
    for name, folder in (("a", sources / "frames"), ("b", tmp_path / "other")):
        run(folder, tmp_path / name, "--task", "inpainting", "--refiner", refiners / "inpainting", "--masks", sources / "masks")
    assert torch.equal(written(tmp_path / "a"), written(tmp_path / "b"))


def test_driving_is_told_where_actors_are(refiners, sources, tmp_path):
    run(sources / "frames", tmp_path / "out", "--task", "driving", "--refiner", refiners / "driving",
        "--masks", sources / "masks", *CUT)
    given, mask = read_frames(sources / "frames")[1], torch.load(sources / "masks.pt", weights_only=True)
    expected, other = (by_hand(refiners, "driving", Clip(given, mask=value)) for value in (mask, torch.zeros_like(mask)))
    torch.testing.assert_close(written(tmp_path / "out"), expected, atol=BITS, rtol=0)
    assert (expected - other).abs().max() > 2 * BITS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of three tasks in one folder."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, seed in (("wall", 0), ("door", 1)):
        save_pair(pair(9, 24, 32, seed=seed, name=name), folder / name)
    clean = pair(9, 24, 32, seed=2).clean
    save_pair(Pair(Clip(F.interpolate(clean, scale_factor=0.5, mode="area")), clean, "small"), folder / "small")
    save_pair(inpainting_pair(clean, "holes", (torch.rand(9, 1, 24, 32) > 0.8).float()), folder / "holes")
    return folder


@pytest.mark.parametrize("task, names", [("artifact-removal", ["door", "wall"]), ("super-resolution", ["small"]),
                                         ("inpainting", ["holes"])])
def test_a_folder_of_pairs(refiners, pairs, tmp_path, capsys, task, names):
    run(pairs, tmp_path / "out", "--task", task, "--refiner", refiners / task)
    assert f"{4 - len(names)} of 4 pairs are not for {task}" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        stored = StoredPair(pairs / name).read()
        expected = Refiner.from_pretrained(refiners / task, task)(stored.degraded, stored.size)
        torch.testing.assert_close(written(tmp_path / "out" / name), expected, atol=BITS, rtol=0)
        write_frames(tmp_path / "truth" / name, stored.clean)
    said = tmp_path / "metrics.json"
    main(["evaluate", str(tmp_path / "out"), str(tmp_path / "truth"), "--metrics", "psnr", "--output", str(said)])
    assert sorted(json.loads(said.read_text())["per_clip"]) == names


@pytest.mark.parametrize("kind", ["wan2.1", "cogvideox1.5"])
def test_a_published_model_with_a_prompt(sources, tmp_path, kind):
    """Windows and tiles are on the grids of its own: clips of 4k + 1 and 8k + 1 frames."""
    base, refined = write_published(tmp_path / kind, kind, text_encoder=True), {}
    cut = ["--task", "super-resolution", "--size", "48x60", "--window", 17, "--overlap", 4, "--tile", "32x32"]
    for name, options in {"": [], "other": ["--prompt", "a street"], "half": ["--precision", "bf16"]}.items():
        run(sources / "frames", tmp_path / f"out{name}", "--refiner", base, *cut, *options)
        refined[name] = written(tmp_path / f"out{name}")
    given = read_frames(sources / "frames")[1]
    expected = Refiner.from_pretrained(base, "super-resolution")(Clip(given), (48, 60), Windows(17, 4, (32, 32)))
    torch.testing.assert_close(refined[""], expected, atol=BITS, rtol=0)
    assert (refined["other"] - refined[""]).abs().max() > 0 and 0 < (refined["half"] - refined[""]).abs().mean() < 0.05


def test_bf16_is_nearly_the_same(refiners, sources, tmp_path):
    for precision in ("bf16", "fp32"):
        run(sources / "video.mp4", tmp_path / precision, "--refiner", refiners / "artifact-removal", "--precision", precision)
    step = (written(tmp_path / "bf16") - written(tmp_path / "fp32")).abs()
    assert 0 < step.mean() < 0.02


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Reading, waiting for the frames beside, and writing, around the baseline, which takes none."""
    def memory(count: int) -> int:
        write_file(tmp_path / f"{count}.mp4", numbered(count, HEIGHT, WIDTH))
        clip = video_clip(open_video(tmp_path / f"{count}.mp4"))
        job = Job(clip, (HEIGHT, WIDTH), tmp_path / f"{count}-out")
        return peak_bytes(lambda: refine_all([job], Model(None), WINDOWS, None), torch.device("cpu"))

    short, long, frame = memory(40), memory(200), 3 * HEIGHT * WIDTH * 4
    assert long <= short + 2 * frame and long < 4 * 13 * frame


def test_what_is_damaged_leaves_nothing_or_what_was_there(refiners, sources, tmp_path, capsys):
    frames = tmp_path / "frames"
    write_frames(frames, read_frames(sources / "frames")[1])
    run(frames, tmp_path / "older", "--refiner", refiners / "artifact-removal")
    before = written(tmp_path / "older")
    content = (frames / "00016.png").read_bytes()
    (frames / "00016.png").write_bytes(content[:len(content) // 2])
    for output in ("new", "older"):
        refused(capsys, "refine", frames, "--output", tmp_path / output, "--refiner", refiners / "artifact-removal", *CUT,
                message="00016.png cannot be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "older"]
    assert torch.equal(written(tmp_path / "older"), before)


@pytest.mark.parametrize("options, message", [
    (["--task", "paint"], "There is no task 'paint'"),
    (["--refiner", "blend"], "--refiner blend needs photos"),
    (["--splat", "x.ply", "--task", "driving"], "--splat goes with --task artifact-removal, not driving"),
    (["--scale", "2"], "--scale is for --task super-resolution, not artifact-removal"),
    (["--masks", "masks"], "--masks is for --task inpainting and driving, not artifact-removal"),
    (["--task", "inpainting", "--photos", "x"], "--photos is for --task artifact-removal"),
    (["--task", "super-resolution"], "give --scale or --size"),
    (["--task", "super-resolution", "--scale", "2", "--size", "64x64"], "--scale and --size say the same thing"),
    (["--task", "super-resolution", "--scale", "0.5"], "--scale is 0.5; give 1 or more"),
    (["--task", "super-resolution", "--size", "12x64"], "would have 64×12 px"),
    (["--task", "super-resolution", "--scale", "nan"], "--scale is nan"),
    (["--task", "super-resolution", "--size", "64"], "--size is '64'; give HEIGHTxWIDTH"),
    (["--task", "inpainting"], "--task inpainting needs to know where"),
    (["--task", "driving"], "--task driving needs to know where"),
    (["--task", "inpainting", "--box", "1,2,3"], "--box is '1,2,3'; give X,Y,WIDTH,HEIGHT"),
    (["--task", "inpainting", "--box", "20,2,20,5"], "The box of 20×5 px at (20, 2) is not within the frames"),
    (["--task", "inpainting", "--masks", "nowhere"], "There are no masks at nowhere"),
    (["--window", "8", "--overlap", "8"], "Windows of 8 frames cannot overlap by 8"),
    (["--window", "3", "--overlap", "1"], "give 5 or more"),
    (["--tile", "4x64"], "4 px at a time"),
    (["--tile", "big"], "--tile is 'big'"),
    (["--fps", "0"], "--fps 0"),
    (["--refiner", "nowhere/at/all"], "nowhere"),
    (["--frames", "20"], "--frames is for a splat"),
    (["--longest-side", "480"], "--longest-side is for a splat"),
    (["--splat", "x.ply", "--photos", "y"], "--photos is for plain videos"),
    (["--device", "cuda"], "There is no CUDA device here"),
    (["--prompt", "a red car"], "tiny was made with '' for its prompt and takes no 'a red car'"),
    (["--parts", "elsewhere"], "leave the parts out"),
    (["--task", "super-resolution", "--scale", "1e9"], "px a side at most"),
    (["--task", "super-resolution", "--size", "64x99999"], "px a side at most"),
])
def test_refusals(sources, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(capsys, "refine", sources / "video.mp4", "--output", tmp_path / "out", *options, message=message)
    assert not list(tmp_path.iterdir())


def test_more_refusals(refiners, sources, pairs, tmp_path, capsys):
    out = ["--output", tmp_path / "out"]
    refused(capsys, "refine", tmp_path / "nowhere.mp4", *out, message="There is no video at")
    refused(capsys, "refine", sources / "video.mp4", *out, "--refiner", refiners / "driving",
            message="was trained for driving, not artifact-removal")
    refused(capsys, "refine", sources / "video.mp4", "--output", pairs, message="which no refining wrote")
    refused(capsys, "refine", sources / "video.mp4", "--output", sources / "masks.mp4", message="is a file")
    refused(capsys, "refine", sources / "video.mp4", "--output", sources / "masks.mp4" / "below", message="masks.mp4 is a file")
    refused(capsys, "refine", pairs / "wall", *out, message="is a single pair; give the folder of pairs")
    refused(capsys, "refine", sources / "frames", "--output", sources, message="which is to be read")
    refused(capsys, "refine", pairs, "--output", pairs, message="which is to be read")
    refused(capsys, "refine", pairs, *out, "--task", "driving", message="None of the 4 pairs")
    refused(capsys, "refine", pairs, *out, "--task", "inpainting", "--box", "1,1,2,2", message="--box is for plain videos")
    assert not list(tmp_path.iterdir())


def test_masks_that_do_not_fit_are_refused(sources, tmp_path, capsys):
    masks = torch.load(sources / "masks.pt", weights_only=True)[:, 0]
    for name, some in (("few", masks[:9]), ("large", F.interpolate(masks[None], scale_factor=2)[0])):
        (tmp_path / name).mkdir()
        for number, mask in enumerate(some.byte().numpy()):
            Image.fromarray(255 * mask).save(tmp_path / name / f"{number:05d}.png")
        write_video(tmp_path / f"{name}.mp4", some[:, None].expand(-1, 3, -1, -1), 30)
    for name, message in (("few", "There are 9 masks"), ("large", "64×48")):
        for masks_of in (tmp_path / name, tmp_path / f"{name}.mp4"):
            refused(capsys, "refine", sources / "video.mp4", "--output", tmp_path / "out", "--task", "inpainting", "--masks",
                    masks_of, message=message)
    assert not (tmp_path / "out").exists()


def test_names_in_pairs_are_no_paths(refiners, tmp_path):
    """What is written is called as the pair's folder is: a name in a file may lead elsewhere, or be another's too."""
    for folder in ("one", "two"):
        save_pair(pair(5, 24, 32, name="../../outside"), tmp_path / "pairs" / folder)
    run(tmp_path / "pairs", tmp_path / "deep" / "out", "--refiner", refiners / "artifact-removal")
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == ["one", "two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "pairs"]


def test_frames_of_others_are_not_replaced(sources, tmp_path, capsys):
    for name, message in {"frames/00000.png": "frames without refined.mp4", "frames/IMG_1.png": "frames/IMG_1.png",
                          "frames/notes.txt": "frames/notes.txt"}.items():
        output = tmp_path / message.replace("/", "-")
        (output / "frames").mkdir(parents=True)
        (output / name).write_text("mine")
        if "without" not in message:
            (output / "refined.mp4").write_text("mine")
        refused(capsys, "refine", sources / "frames", "--output", output, message=f"holds {message}")
        assert (output / name).read_text() == "mine"


def test_a_refiner_that_corrects_nothing_says_so(refiners, sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("chopgrad_ns.refiner.refiner.resources.files", lambda package: tmp_path)  # no weights are shipped
    said = "the tiny refiner is not trained for driving and corrects nothing"
    for number, (refiner, untrained) in enumerate((("tiny", True), (refiners / "driving", False))):
        run(sources / "frames", tmp_path / str(number), "--task", "driving", "--refiner", refiner, "--masks", sources / "masks")
        assert (said in capsys.readouterr().err) == untrained
