"""PLY files of 3DGS: their layout, what others write, and what is refused."""

import struct

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat import Gaussians
from tests.splat.scenes import splat


def header_and_values(path):
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property float")]
    return names, torch.tensor(list(struct.iter_unpack(f"<{len(names)}f", body)))


def test_layout_is_that_of_3dgs(tmp_path):
    one = splat(degree=1, count=5)
    one.save(tmp_path / "splat.ply")
    names, values = header_and_values(tmp_path / "splat.ply")
    assert names == (["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
                     + [f"f_rest_{i}" for i in range(9)]
                     + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"])
    # the coefficients of one channel lie side by side: red's three, then green's, then blue's
    assert torch.equal(values[:, 9:12], one.sh[:, 1:, 0]) and torch.equal(values[:, 15:18], one.sh[:, 1:, 2])


def test_columns_may_come_in_any_order_and_type(tmp_path):
    before = splat(degree=0, count=4)
    names = ["opacity", "z", "y", "x", "rot_3", "rot_2", "rot_1", "rot_0", "f_dc_2", "f_dc_1", "f_dc_0",
             "scale_0", "scale_1", "scale_2", "label"]
    columns = [before.opacity_logits, *before.means.T.flip(0), *before.quats.T.flip(0),
               *before.sh[:, 0].T.flip(0), *before.log_scales.T]
    header = "ply\nformat binary_little_endian 1.0\ncomment by hand\nelement vertex 4\n"
    header += "".join(f"property {'uchar' if name == 'label' else 'double'} {name}\n" for name in names)
    header += "end_header\n"
    rows = torch.stack(columns, dim=1).double().tolist()
    path = tmp_path / "splat.ply"
    path.write_bytes(header.encode() + b"".join(struct.pack("<14dB", *row, 7) for row in rows))
    after = Gaussians.load(path)
    for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("order", ["ascii", "binary_big_endian"])
def test_other_encodings_are_read(tmp_path, order):
    before, path = splat(degree=1, count=5), tmp_path / "splat.ply"
    before.save(path)
    _, values = header_and_values(path)
    header, _, _ = path.read_bytes().partition(b"end_header\n")
    body = "\n".join(" ".join(map(repr, row)) for row in values.tolist()).encode()
    if order == "binary_big_endian":
        body = struct.pack(f">{values.numel()}f", *values.flatten().tolist())
    path.write_bytes(header.replace(b"binary_little_endian", order.encode()) + b"end_header\n" + body)
    after = Gaussians.load(path)
    for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
        assert torch.equal(getattr(after, name), getattr(before, name))


def test_other_elements_are_passed_over(tmp_path):
    """Cameras and the like before or behind the Gaussians, and line ends of Windows."""
    before, path = splat(degree=1, count=5), tmp_path / "splat.ply"
    before.save(path)
    content = path.read_bytes().replace(b"element vertex", b"element camera 2\nproperty double focal\nelement vertex")
    header, _, body = content.replace(b"end_header", b"element size 1\nproperty uint width\nend_header").partition(
        b"end_header\n")
    path.write_bytes(header.replace(b"\n", b"\r\n") + b"end_header\r\n" + bytes(16) + body + bytes(4))
    assert torch.equal(Gaussians.load(path).sh, before.sh)


def broken_files(good: bytes) -> dict[str, bytes]:
    return {
        "of another encoding than announced": good.replace(b"binary_little_endian", b"ascii"),
        "no PLY": b"hello\n",
        "no end of header": good[:60],
        "cut short": good[:-8],
        "an element without properties": good.replace(b"end_header", b"element face 0\nend_header"),
        "no opacity": good.replace(b"property float opacity", b"property float opaqueness"),
        "odd harmonics": good.replace(b"property float nx", b"property float f_rest_9"),
        "unknown type": good.replace(b"property float x", b"property half x"),
        "list": good.replace(b"property float x", b"property list uchar int x"),
        "negative count": good.replace(b"element vertex 5", b"element vertex -5"),
        "no count": good.replace(b"element vertex 5\n", b""),
        "no properties": b"ply\nformat binary_little_endian 1.0\nelement vertex 5\nend_header\n",
    }


@pytest.mark.parametrize("fault", list(broken_files(b"")))
def test_bad_plys_are_refused_by_name(tmp_path, fault):
    splat(degree=1, count=5).save(tmp_path / "good.ply")
    path = tmp_path / "bad.ply"
    path.write_bytes(broken_files((tmp_path / "good.ply").read_bytes())[fault])
    with pytest.raises(UserError, match="bad.ply"):
        Gaussians.load(path)


def test_missing_ply_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.ply"):
        Gaussians.load(tmp_path / "none.ply")
