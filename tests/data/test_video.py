"""Videos and folders of frames come back as they were written."""

import time

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.data.video import frame_files, read_frames, side_by_side, video_writer, write_frames, write_video
from chopgrad_ns.errors import UserError
from tests.worlds import plane_cameras, plane_photos


@pytest.mark.parametrize("height, width", [(48, 64), (47, 63)])
def test_video_round_trip(tmp_path, height, width):
    frames = plane_photos(plane_cameras(5))[:, :, :height, :width]
    write_video(tmp_path / "new" / "clip.mp4", frames, fps=12)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.mp4"]
    reader = imageio.get_reader(tmp_path / "new" / "clip.mp4")
    assert reader.get_meta_data()["fps"] == 12 and reader.get_meta_data()["codec"] == "h264"
    assert "yuv420p" in reader.get_meta_data()["pix_fmt"]
    again = torch.from_numpy(np.stack([frame for frame in reader])).permute(0, 3, 1, 2).float() / 255
    assert again.shape == (5, 3, height + height % 2, width + width % 2)
    assert ((again[:, :, :height, :width] - frames) ** 2).mean() < 1e-3
    assert (again[:, :, height - 1, :]
            - again[:, :, -1, :]).abs().mean() < 0.05, "odd sizes repeat their edge"


def test_side_by_side():
    a, b = torch.zeros(2, 3, 4, 6), torch.full((2, 3, 4, 5), 0.5)
    joined = side_by_side(a, b, gap=2)
    assert joined.shape == (2, 3, 4, 13)
    assert joined[..., :6].max() == 0 and joined[..., 6:8].min() == 1 and torch.equal(joined[..., 8:], b)


def test_frames_round_trip(tmp_path):
    frames = (torch.rand(3, 3, 5, 7) * 255).round() / 255
    write_frames(tmp_path, frames)
    names, again = read_frames(tmp_path)
    assert names == ["00000", "00001", "00002"] and torch.allclose(again, frames)


def test_bad_frames_are_refused(tmp_path):
    with pytest.raises(UserError, match="no PNG or JPEG"):
        read_frames(tmp_path)
    write_frames(tmp_path, torch.rand(2, 3, 5, 7))
    Image.new("RGB", (9, 5)).save(tmp_path / "00002.png")
    with pytest.raises(UserError, match="00002.png is 9×5 px, the first one 7×5"):
        read_frames(tmp_path)
    (tmp_path / "00002.png").write_text("no picture")
    with pytest.raises(UserError, match="00002.png cannot be read"):
        read_frames(tmp_path)


def listed(folder, names):
    for name in names:
        (folder / name).touch()
    return [path.name for path in frame_files(folder)]


def test_frames_are_in_order_of_their_numbers(tmp_path):
    frames = (torch.arange(12) / 255)[:, None, None, None].expand(12, 3, 5, 7)
    write_frames(tmp_path, frames)
    for path in frame_files(tmp_path):
        path.rename(tmp_path / f"{int(path.stem)}.png")
    names, again = read_frames(tmp_path)
    assert names == [str(number) for number in range(12)] and torch.allclose(again, frames)


def test_padding_does_not_change_the_order(tmp_path):
    assert listed(tmp_path, ["10.png", "009.png", "11.jpg", "8.JPEG"]) == ["8.JPEG", "009.png", "10.png", "11.jpg"]
    assert listed(tmp_path, ["08.png", "9.png"])[:4] == ["08.png", "8.JPEG", "009.png", "9.png"], "equal ones by name"


def test_names_of_letters_and_digits_are_ordered(tmp_path):
    ordered = ["2", "2b", "10", "a", "a2_4", "a2_30", "a10_1", "b", "b1", "²", "٣"]  # the last are no digits of ASCII
    assert listed(tmp_path, [f"{name}.png" for name in sorted(ordered)]) == [f"{name}.png" for name in ordered]
    assert sorted(ordered) != ordered


def test_hidden_files_are_no_frames(tmp_path):
    assert listed(tmp_path, ["00000.png", "._00000.png", ".hidden.jpg", "note.txt"]) == ["00000.png"]


def test_nothing_is_left_of_a_video_that_was_not_finished(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), video_writer(tmp_path / "video.mp4", 25) as add:
        add(torch.rand(3, 64, 64))
        raise RuntimeError("stop")
    for _ in range(20):  # an encoder that went on would write its file a little later
        assert not list(tmp_path.iterdir())
        time.sleep(0.05)
