"""Random access to videos is exact to the frame, and bad videos are named."""

import pickle
import subprocess
import sys

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.data.pixel_formats import converter
from chopgrad_ns.data.plain_videos import find_videos, framed_size, open_video
from chopgrad_ns.data.video import write_frames
from chopgrad_ns.errors import UserError
from tests.data.videos import number_of, numbered, write_file

COUNT = 60
KINDS = {
    "long.mp4": {"codec": "libx264", "bf": 3, "g": 250},
    "short.mp4": {"codec": "libx264", "bf": 3, "g": 12, "x264-params": "b-pyramid=normal"},
    "open.mkv": {"codec": "libx264", "bf": 3, "g": 15, "x264-params": "open-gop=1"},
    "refresh.mp4": {"codec": "libx264", "bf": 0, "g": 20, "x264-params": "intra-refresh=1"},
    "varied.mp4": {"codec": "libx264", "bf": 2, "g": 12,
                   "times": list(np.cumsum(np.random.default_rng(0).integers(1, 9, COUNT)).tolist())},
    "old.avi": {"codec": "mpeg4", "bf": 2, "g": 12, "q": 3},
    "dvd.mpg": {"codec": "mpeg2video", "bf": 2, "g": 12, "q": 3},
    "tv.ts": {"codec": "libx264", "bf": 2, "g": 12},
    "hidden.webm": {"codec": "libvpx", "auto-alt-ref": 1, "lag-in-frames": 16, "g": 20, "cpu-used": 4},
    "web.webm": {"codec": "libvpx-vp9", "auto-alt-ref": 1, "lag-in-frames": 16, "g": 20, "cpu-used": 5},
    "pictures.mov": {"codec": "mjpeg", "q": 3},
}


def decode_all(path) -> list[np.ndarray]:
    rgb = converter("rgb24")
    with av.open(str(path)) as container:
        return [rgb(frame).to_ndarray() for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", KINDS)
def test_random_access_equals_decoding_everything(tmp_path, name):
    path = write_file(tmp_path / name, numbered(COUNT), **KINDS[name])
    everything = decode_all(path)
    assert [number_of(frame) for frame in everything] == list(range(COUNT)), "the file holds what was written"
    video = open_video(path)
    assert (video.frames, video.height, video.width, video.name) == (COUNT, 48, 64, path.stem)
    if name != "varied.mp4":
        assert video.fps == pytest.approx(25, rel=0.02)
    for first, count in ((0, 1), (0, 60), (1, 5), (11, 3), (12, 1), (25, 24), (39, 2), (57, 3), (59, 1)):
        for number, picture in enumerate(video.pictures(first, count)):
            assert np.array_equal(picture, everything[first + number]), f"frame {first + number}"
        assert number == count - 1


def test_frames_without_times_of_their_own_are_counted(tmp_path):
    """Two transport streams one after the other, in which times repeat."""
    parts = [write_file(tmp_path / f"{seed}.ts", numbered(20, seed=seed), g=6, bf=2).read_bytes() for seed in (0, 1)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    video, everything = open_video(tmp_path / "both.ts"), decode_all(tmp_path / "both.ts")
    assert video.frames == len(everything) >= 38
    for first in (0, 15, 19, 22, 30):
        assert all(np.array_equal(a, b) for a, b in zip(video.pictures(first, 8), everything[first:], strict=False))
    other = write_file(tmp_path / "small.ts", numbered(20, 32, 64), g=6, bf=2).read_bytes()
    (tmp_path / "both.ts").write_bytes(parts[0] + other)
    video = open_video(tmp_path / "both.ts")
    assert video.read(0, 10).shape == (10, 3, 48, 64)
    with pytest.raises(UserError, match=r"Frame \d+ of .*both.ts is 64×32 px, the first one 64×48"):
        video.read(15, 10)


def test_real_videos(shared_data):
    for name, frames in (("bikes", 250), ("carphone_pristine", 120), ("solidWhiteRight", 221)):
        path = shared_data / "video" / f"{name}.mp4"
        video, everything = open_video(path), decode_all(path)
        assert video.frames == len(everything) == frames
        for first in (0, 41, frames // 2, frames - 5):
            assert all(np.array_equal(a, b) for a, b in
                       zip(video.pictures(first, 5), everything[first:first + 5], strict=True)), (name, first)


def test_rotation_as_ffmpeg_shows_it(tmp_path):
    straight = write_file(tmp_path / "straight.mp4", numbered(10), g=5)
    for turn in (90, 180, 270):
        path = tmp_path / f"{turn}.mp4"
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
        subprocess.run([*ffmpeg, "-display_rotation", str(turn), "-i", straight, "-c", "copy", path], check=True)
        shown = subprocess.run([*ffmpeg, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True,
                               capture_output=True).stdout
        video = open_video(path)
        assert (video.height, video.width) == ((64, 48) if turn % 180 else (48, 64))
        expected = np.frombuffer(shown, np.uint8).reshape(10, video.height, video.width, 3)
        got = np.stack(list(video.pictures()))
        assert np.abs(got.astype(int) - expected).mean() < 6, "colour is interpolated in another way"
        assert np.abs(got[:, ::-1, ::-1].astype(int) - expected).mean() > 30


def test_folder_of_frames(tmp_path):
    frames = torch.from_numpy(numbered(9)).permute(0, 3, 1, 2).float() / 255
    write_frames(tmp_path / "walk", frames)
    video = open_video(tmp_path / "walk")
    assert (video.frames, video.height, video.width, video.fps, video.name) == (9, 48, 64, None, "walk")
    assert video.frame_names[0] == "00000" and torch.equal(video.read(4, 3), frames[4:7])
    Image.new("RGB", (9, 5)).save(tmp_path / "walk" / "00009.png")
    with pytest.raises(UserError, match="00009.png is 9×5 px, the first one 64×48"):
        open_video(tmp_path / "walk")
    whole = (tmp_path / "walk" / "00004.png").read_bytes()
    (tmp_path / "walk" / "00009.png").unlink()
    (tmp_path / "walk" / "00004.png").write_bytes(whole[:len(whole) // 2])
    assert len(video.read(0, 4)) == 4
    with pytest.raises(UserError, match="00004.png cannot be read"):
        video.read(3, 3)


def test_sizes(tmp_path):
    video = open_video(write_file(tmp_path / "v.mp4", numbered(3, 72, 128), crf=1))
    whole = video.read()
    assert whole.shape == (3, 3, 72, 128) and torch.equal(whole, (whole * 255).round() / 255)
    small = video.read(1, 2, longest_side=60, multiple=8)
    assert small.shape == (2, 3, 32, 56) == (2, 3, *framed_size(72, 128, 60, 8)), "60×34, then cut to 56×32"
    expected = torch.nn.functional.interpolate(whole[1:], (34, 60), mode="bicubic", antialias=True)[..., 1:33, 2:58]
    error = (small - expected.clamp(0, 1)).abs()
    assert error.mean() < 0.5 / 255 and error.max() < 0.05, "Pillow clips between the two passes"
    assert torch.equal(video.read(longest_side=500), whole), "nothing is enlarged"
    assert framed_size(540, 960, 192) == (108, 192)
    with pytest.raises(UserError, match="cannot be cut to multiples of 64"):
        video.read(longest_side=60, multiple=64)
    for first, count in ((-1, 2), (0, 0), (2, 2), (3, 1)):
        with pytest.raises(IndexError):
            video.read(first, count)
    assert torch.equal(pickle.loads(pickle.dumps(video)).read(1, 2), whole[1:])


def test_colours_are_not_shifted(tmp_path):
    flat = np.empty((2, 48, 64, 3), np.uint8)
    for color in ((200, 100, 50), (60, 120, 180), (128, 128, 128), (10, 200, 30)):
        flat[:] = color
        seen = np.stack(list(open_video(write_file(tmp_path / "v.mkv", flat, crf=1)).pictures()))
        assert np.abs(seen.astype(int) - flat).max() <= 2


def test_videos_are_found(tmp_path):
    for name in ("b.mp4", "a.MOV", "deep/er/c.mkv", ".hidden.mp4", "notes.txt", "deep/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write_frames(tmp_path / "frames", torch.rand(2, 3, 4, 4))
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "d.avi").write_bytes(b"")
    found = find_videos([tmp_path / "b.mp4", tmp_path])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["b.mp4", "a.MOV", "deep/d.avi", "deep/er/c.mkv", "frames"]
    for bad in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"no video at .*{bad}"):
            find_videos([tmp_path, tmp_path / bad])


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for name, says in (("text.mp4", "cannot be read as a video"), ("picture.png", "is not a video"),
                       ("empty.mkv", "cannot be read as a video"), ("sound.mkv", "is not a video"),
                       ("folder", "no PNG or JPEG"), ("absent.mp4", "no video at")):
        with pytest.raises(UserError, match=says) as caught:
            open_video(tmp_path / name)
        assert name in str(caught.value)


def test_damage_is_named_and_the_rest_can_be_read(tmp_path):
    path = write_file(tmp_path / "v.mp4", numbered(COUNT), g=10, bf=2, crf=15, movflags="faststart")
    everything = decode_all(path)
    with av.open(str(path)) as container:
        packets = sorted((p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size)
    spoiled = bytearray(path.read_bytes())
    _, at, size = packets[30]  # a key frame
    spoiled[at + 8:at + size] = bytes(np.random.default_rng(1).integers(0, 256, size - 8, dtype=np.uint8))
    path.write_bytes(spoiled)
    video = open_video(path)
    assert video.frames == COUNT
    for first in (0, 20, 45, 50):
        assert all(np.array_equal(a, b) for a, b in
                   zip(video.pictures(first, 8), everything[first:first + 8], strict=True)), first
    for first in (25, 28, 30, 35):
        with pytest.raises(UserError, match=r"v.mp4 is damaged at or shortly before frame 3\d of 60"):
            video.read(first, 8)


def test_a_file_cut_short_is_named(tmp_path):
    path = write_file(tmp_path / "v.mp4", numbered(COUNT), g=10)
    faststart = tmp_path / "f.mp4"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-c", "copy", "-movflags", "faststart",
                    faststart], check=True)
    whole = faststart.read_bytes()
    faststart.write_bytes(whole[:len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"f.mp4 ends after \d+ of its 60 frames"):
        open_video(faststart)
    path.write_bytes(path.read_bytes()[:len(whole) * 2 // 3])  # without its index, which is at the end
    with pytest.raises(UserError, match="v.mp4 cannot be read as a video"):
        open_video(path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Raw video of 64 MB, opened by a process whose peak is known before."""
    size, frames = 320 * 240 * 3 // 2, 560
    with open(tmp_path / "raw.y4m", "wb") as file:
        file.write(b"YUV4MPEG2 W320 H240 F25:1 C420jpeg\n")
        file.writelines([b"FRAME\n" + bytes(size)] * frames)
    program = ("import resource, sys; from chopgrad_ns.data.plain_videos import open_video; "
               "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
               "open_video(sys.argv[1]); before = peak(); print(open_video(sys.argv[2]).frames, before, peak())")
    short = write_file(tmp_path / "short.mp4", numbered(3))
    done = subprocess.run([sys.executable, "-c", program, short, tmp_path / "raw.y4m"], capture_output=True, text=True,
                          check=True)
    count, before, after = map(int, done.stdout.split())
    kilobyte = 1000 if sys.platform == "darwin" else 1  # there ru_maxrss is in bytes
    assert count == frames and (after - before) / kilobyte < 20_000, "in kB, of a file of 64,000"
