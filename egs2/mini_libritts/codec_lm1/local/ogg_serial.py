"""A fixed stream serial number for Ogg files, so that the same audio gives the same bytes."""

from __future__ import annotations

import struct
from pathlib import Path

_SERIAL_OFFSET = 14
_CRC_OFFSET = 22
_SEGMENTS_OFFSET = 26


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = ((value << 1) ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def page_crc(page: bytes | bytearray) -> int:
    """The checksum of an Ogg page whose checksum field is zero."""
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ _TABLE[(value >> 24) ^ byte]
    return value


def set_serial(path: Path, serial: int) -> None:
    """Rewrite every page of the file with another serial number.

    Args:
        path: an Ogg file with one stream; changed in place.
        serial: the number, 32 bits.

    Raises:
        ValueError: if a page does not start where the previous one ends.

    Reference:
        RFC 3533, section 6.
    """
    content, start = bytearray(path.read_bytes()), 0
    while start < len(content):
        if content[start : start + 4] != b"OggS":
            raise ValueError(f"{path} must be an Ogg file, got no page at byte {start}")
        body = start + _SEGMENTS_OFFSET + 1 + content[start + _SEGMENTS_OFFSET]
        end = body + sum(content[start + _SEGMENTS_OFFSET + 1 : body])
        struct.pack_into("<I", content, start + _SERIAL_OFFSET, serial)
        struct.pack_into("<I", content, start + _CRC_OFFSET, 0)
        struct.pack_into("<I", content, start + _CRC_OFFSET, page_crc(content[start:end]))
        start = end
    path.write_bytes(content)
