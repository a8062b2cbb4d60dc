"""Whatever is wrong with a picture is told in one sentence, wherever it is opened."""

import json
import random
import re
import warnings
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from chopgrad_ns.data.masks import ObjectMasks
from chopgrad_ns.data.pictures import LARGEST, open_picture
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.data.video import read_frame
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.sources import ClipPaths, read_pair
from tests.data.broken import BROKEN, BROKEN_HEADERS, SIGNATURE, encoded, png, png_chunks


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A byte or a few overwritten, left out or put in between, or the end cut off."""
    at = draw.randrange(len(content))
    some = bytes(draw.randrange(256) for _ in range(draw.choice((1, 1, 4))))
    how = draw.choice(("overwrite", "overwrite", "insert", "delete", "cut"))
    if how == "cut":
        return content[:at]
    rest = content[at + (0 if how == "insert" else len(some)):]
    return content[:at] + (b"" if how == "delete" else some) + rest


@pytest.fixture(autouse=True)
def pillows_own_limit(monkeypatch):
    """nuScenes' kit, which nerfstudio imports, lifts it for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LARGEST // 2)


def test_bombs_are_refused_where_pillows_limit_was_lifted(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(BROKEN["bomb"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (60_000, 60_000)
    with pytest.raises(UserError, match="cannot be read"), open_picture(tmp_path / "a.png", "photo", "save it again"):
        pass


def mutated_chunk(content: bytes, draw: random.Random) -> bytes:
    """One chunk of a PNG file with another name, data mutated, or left out; lengths and checksums are right."""
    chunks = png_chunks(content, part=200)
    at = draw.randrange(len(chunks))
    name, data = chunks[at]
    how = draw.choice(("data", "data", "name", "none") if data else ("name", "none"))
    if how == "none":
        return png(chunks[:at] + chunks[at + 1:])
    changed = (name, mutated(data, draw)) if how == "data" else (bytes(draw.randrange(256) for _ in range(4)), data)
    return png(chunks[:at] + [changed] + chunks[at + 1:])


def test_mutated_pictures_are_read_or_refused(tmp_path):
    originals = [encoded(12, 16, "PNG", mode) for mode in ("L", "P", "RGB", "RGBA")]
    originals += [encoded(12, 16, "JPEG", mode, progressive=mode == "L") for mode in ("L", "RGB", "CMYK")]
    path, draw, read, refused = tmp_path / "00000.png", random.Random(0), 0, Counter()
    for number in range(700):
        content = originals[number % len(originals)]
        change = mutated_chunk if content.startswith(SIGNATURE) and draw.random() < 0.5 else mutated
        path.write_bytes(change(content, draw))
        try:
            with warnings.catch_warnings(action="ignore"):  # of large pictures and odd metadata
                picture = read_frame(path)
        except UserError as error:
            assert str(error) == f"The frame {path} cannot be read; write it again as PNG or JPEG."
            refused[type(error.__cause__)] += 1
        else:
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
            read += 1
    assert read > 100 and refused[OSError] > 100
    assert min(refused[kind] for kind in (SyntaxError, ValueError, Image.DecompressionBombError)) > 0


@pytest.mark.parametrize("how, raised", [("bomb", Image.DecompressionBombError), ("short header", ValueError),
                                         ("pixels", SyntaxError)])
def test_what_is_raised_otherwise(tmp_path, how, raised):
    """Else the tests below could not tell."""
    path = tmp_path / "a.png"
    path.write_bytes(BROKEN[how])
    with pytest.raises(raised) as caught, Image.open(path) as picture:
        picture.load()
    assert not isinstance(caught.value, OSError)
    with pytest.raises(UserError, match="^The photo cannot be read; save it again[.]$"), \
            open_picture(path, "photo", "save it again") as picture:
        picture.load()


@pytest.mark.parametrize("how", BROKEN)
def test_broken_frames_masks_and_ids(tmp_path, how):
    for kind in ("frames", "masks", "ids"):
        (tmp_path / kind).mkdir()
        for name in ("00000.png", "00001.png"):
            (tmp_path / kind / name).write_bytes(encoded())
    video, pair = open_video(tmp_path / "frames"), ClipPaths(*3 * [tmp_path / "frames"], tmp_path / "ids")
    assert video.read().shape == (2, 3, 48, 64)
    assert ObjectMasks(tmp_path / "masks", video).read().shape == (2, 1, 48, 64)
    assert read_pair(pair).actor_ids.shape == (2, 1, 48, 64)

    bad = {kind: tmp_path / kind / "00001.png" for kind in ("frames", "masks", "ids")}
    for path in bad.values():
        path.write_bytes(BROKEN[how])
    with pytest.raises(UserError, match=f"The mask {re.escape(str(bad['masks']))} cannot be read; write it"):
        ObjectMasks(tmp_path / "masks", video).read()
    with pytest.raises(UserError, match=f"The frame {re.escape(str(bad['frames']))} cannot be read; write it"):
        open_video(tmp_path / "frames").read()
    bad["frames"].write_bytes(encoded())
    with pytest.raises(UserError, match=f"The actor ids {re.escape(str(bad['ids']))} cannot be read; write them"):
        read_pair(pair)


@pytest.mark.parametrize("how", BROKEN_HEADERS)
def test_broken_photos_of_a_scene(tmp_path, how):
    frames = [{"file_path": f"{index}.png", "transform_matrix": np.eye(4).tolist()} for index in range(2)]
    meta = {"w": 64, "h": 48, "fl_x": 50.0, "fl_y": 50.0, "cx": 32.0, "cy": 24.0, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(encoded())
    check_scene(tmp_path)
    (tmp_path / "1.png").write_bytes(BROKEN[how])
    with pytest.raises(UserError, match=r"The image of frame 1 \(1.png\) of .* cannot be read; save it again"):
        check_scene(tmp_path)
