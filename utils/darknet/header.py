"""The first bytes of a .weights file: the format's version and how many images were trained on.

Invariant: `WeightsHeader.unpack(header.pack())` gives the header back and its length in bytes.
"""

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsHeader:
    """Version (Darknet writes 0.2.5) and number of images seen in training."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def is_plausible(self) -> bool:
        """Whether a Darknet may have written this; other formats' first bytes look far from it."""
        return 0 <= self.major < 100 and 0 <= self.minor < 100 and 0 <= self.revision < 10_000

    @property
    def seen_format(self) -> str:
        """The `struct` format of `seen`: 32 bits before version 0.2 (load_weights_upto in parser.c)."""
        return "<Q" if self.major * 10 + self.minor >= 2 else "<I"

    def pack(self) -> bytes:
        """The header as it stands in a file: 20 bytes, 16 before version 0.2."""
        version = struct.pack("<3i", self.major, self.minor, self.revision)
        return version + struct.pack(self.seen_format, self.seen)

    @classmethod
    def unpack(cls, data: bytes) -> tuple["WeightsHeader", int]:
        """Header at the start of `data` and its length in bytes.

        Raises:
            ValueError: `data` is shorter than a header.
        """
        if len(data) < 12:
            raise ValueError("shorter than a header")
        version = cls(*struct.unpack_from("<3i", data))
        if len(data) < 12 + struct.calcsize(version.seen_format):
            raise ValueError("shorter than a header")
        (seen,) = struct.unpack_from(version.seen_format, data, 12)
        header = cls(version.major, version.minor, version.revision, seen)
        return header, 12 + struct.calcsize(version.seen_format)
