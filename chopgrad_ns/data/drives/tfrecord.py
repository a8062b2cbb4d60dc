"""TFRecord files: records one after the other, each with a checksum of its length and one of its content (CRC-32C, masked)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from chopgrad_ns.errors import UserError

HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")


def masked_crc(content: bytes) -> int:
    """CRC-32C as the format stores it: turned by 15 bits and moved on, for content often has checksums itself."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Records:
    """Where the records of a file are; it is opened whenever one is read.

    `places`: the first byte of each record's content, and its length.
    """

    path: Path
    places: tuple[tuple[int, int], ...]

    @staticmethod
    def of(path: Path) -> Records:
        """Go from head to head, and read nothing in between. Raises UserError for a damaged one, or a file that is cut off."""
        path, places, at = Path(path), [], 0
        try:
            size = os.stat(path).st_size
            with open(path, "rb") as file:
                while at < size:
                    file.seek(at)
                    places.append(_place(file.read(HEAD.size), at, size, f"Record {len(places)} of {path} (byte {at})"))
                    at = sum(places[-1]) + TAIL.size
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); name a file of records.") from error
        if not places:
            raise UserError(f"{path} is empty; get the file again.")
        return Records(path, tuple(places))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> bytes:
        """A record's content. Raises UserError where its checksum is not the one stored."""
        begin, length = self.places[index]
        content = self.start(index, length + TAIL.size)
        content, crc = content[:length], content[length:]
        if len(crc) != TAIL.size or TAIL.unpack(crc)[0] != masked_crc(content):
            raise UserError(f"Record {index} of {self.path} (byte {begin - HEAD.size}) is damaged: its checksum is another; "
                            "get the file again, or choose other frames.")
        return content

    def start(self, index: int, length: int) -> bytes:
        """So many bytes from the beginning of a record's content on, unchecked."""
        with open(self.path, "rb") as file:
            file.seek(self.places[index][0])
            return file.read(length)


def _place(head: bytes, at: int, size: int, where: str) -> tuple[int, int]:
    if len(head) == HEAD.size:
        length, crc = HEAD.unpack(head)
        if crc != masked_crc(head[:8]):
            raise UserError(f"{where} has a damaged length: its checksum is another; get the file again (a TFRecord file, "
                            "uncompressed).")
        if length <= size - at - HEAD.size - TAIL.size:
            return at + HEAD.size, length
    raise UserError(f"{where} is cut off: the file has {size} bytes; get the file again.")
