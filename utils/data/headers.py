"""Width and height of an image file from its header, before anything is decoded.

Idea: a few bytes can claim billions of pixels, and decoders allocate them all. JPEG, PNG, BMP, GIF, WebP,
TIFF and PNM are read here; for other formats OpenCV's own limit holds.
"""

import re
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

Size = tuple[int, int]  # height, width

# JPEG markers: start of frame, baseline, progressive, ...; not DHT (C4), JPG (C8), DAC (CC)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a segment


def header_size(data: bytes) -> Size | None:
    """Height and width in the header of an image file; None if unknown or damaged.

    >>> header_size(b"P5 300 200 255 ...")
    (200, 300)
    """
    for start, reader in _READERS.items():
        if data.startswith(start):
            try:
                return reader(data)
            except (struct.error, IndexError, ValueError):
                return None
    return None


def _jpeg(data: bytes) -> Size | None:
    """The first frame, after any number of segments (ITU T.81, annex B)."""
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _png(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp(data: bytes) -> Size:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
        return height, width
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)  # a negative height: rows from top to bottom


def _gif(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _webp(data: bytes) -> Size | None:
    kind = data[8:16]
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    return None


def _tiff(data: bytes) -> Size:
    """Tags 256 and 257 of the first directory, 16 or 32 bits each."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    sides = {}
    for number in range(struct.unpack_from(f"{order}H", data, at)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * number)
        if tag in (256, 257):
            value = f"{order}{'H' if kind == 3 else 'I'}"
            sides[tag] = struct.unpack_from(value, data, at + 10 + 12 * number)[0]
    if len(sides) < 2:
        raise ValueError("no size")
    return sides[257], sides[256]


def _pnm(data: bytes) -> Size | None:
    match = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", data[:4096])
    return (int(match[2]), int(match[1])) if match else None


_READERS: Mapping[bytes, Callable[[bytes], Size | None]] = MappingProxyType(
    {
        b"\xff\xd8": _jpeg,
        b"\x89PNG\r\n\x1a\n": _png,
        b"BM": _bmp,
        b"GIF8": _gif,
        b"RIFF": _webp,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        **{f"P{kind}".encode(): _pnm for kind in range(1, 7)},
    }
)
