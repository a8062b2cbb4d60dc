"""Records that another library framed are read; damaged ones are refused by number and byte."""

import random
import struct

import pytest

from chopgrad_ns.data.drives.tfrecord import Records, masked_crc
from chopgrad_ns.errors import UserError
from tests.data.waymo_records import write_records

CONTENTS = [b"", b"123456789", random.Random(0).randbytes(100_003), b"\0" * 40]
BYTES = [0, 16, 41, 100_060]
"""Where each record begins, and with the last, 56 bytes, the file ends."""


def crc32c(content):
    """Bit by bit: the polynomial 0x1EDC6F41, reflected."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.fixture
def path(tmp_path):
    write_records(tmp_path / "a.tfrecord", CONTENTS)
    return tmp_path / "a.tfrecord"


def test_checksum():
    assert crc32c(b"123456789") == 0xE3069283  # The check value that catalogues of checksums give.
    for content in (b"", b"a", random.Random(1).randbytes(1000)):
        crc = crc32c(content)
        rotated = (crc >> 15) + (crc % 2**15) * 2**17
        assert masked_crc(content) == (rotated + 0xA282EAD8) % 2**32


def test_records(path):
    records = Records.of(path)
    assert len(records) == 4 and [records.read(index) for index in (2, 0, 3, 1)] == [CONTENTS[index] for index in (2, 0, 3, 1)]
    assert [begin - 12 for begin, _ in records.places] == BYTES and path.stat().st_size == BYTES[3] + 56


def test_opening_reads_heads_only(path):
    """What is between is not looked at until it is asked for."""
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    records = Records.of(path)
    assert records.read(1) == CONTENTS[1] and records.read(3) == CONTENTS[3]
    with pytest.raises(UserError, match=r"Record 2 of .*a.tfrecord \(byte 41\) is damaged: .*checksum"):
        records.read(2)


@pytest.mark.parametrize("byte, record", [(0, 0), (9, 0), (16, 1), (27, 1), (45, 2)])
def test_damaged_length(path, byte, record):
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=rf"Record {record} of .* \(byte {BYTES[record]}\) has a damaged length"):
        Records.of(path)


@pytest.mark.parametrize("byte", [12, 15, 30, 37, 60_000, 100_059])
def test_any_changed_byte_is_noticed(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x80
    path.write_bytes(bytes(content))
    records = Records.of(path)
    damaged = max(index for index, begin in enumerate(BYTES) if begin <= byte)
    for index in range(4):
        if index != damaged:
            assert records.read(index) == CONTENTS[index]
    with pytest.raises(UserError, match=f"Record {damaged} of"):
        records.read(damaged)


@pytest.mark.parametrize("size, record", [(1, 0), (11, 0), (15, 0), (20, 1), (40, 1), (60_000, 2), (100_115, 3)])
def test_cut_off(path, size, record):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=rf"Record {record} of .* \(byte {BYTES[record]}\) is cut off: .* {size} bytes"):
        Records.of(path)


def test_claim_beyond_the_file(path):
    """A length with the right checksum that no file has is not believed."""
    length = struct.pack("<Q", 2**62)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"x" * 100)
    with pytest.raises(UserError, match="Record 0 of .* is cut off"):
        Records.of(path)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="is empty"):
        Records.of(tmp_path / "empty")
    with pytest.raises(UserError, match="cannot be read"):
        Records.of(tmp_path / "none")
