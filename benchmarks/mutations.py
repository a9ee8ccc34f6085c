"""Ways to break a file: some of its bytes, or some of its lines."""

import random
from collections.abc import Callable, Mapping

NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        ".5e3",
        "1e9",
        "1e400",
        "nan",
        "inf",
        "",
        "x",
        "1,",
        "-3,-4",
        "0,1,2",
    ),
    *("65536", "1000000000", "99999999999", "-1000000000", "4294967296", "-2147483648", "1" * 400),
)
KEYS = (
    *("filters", "size", "stride", "groups", "pad", "padding", "from", "layers", "mask", "num", "classes"),
    *("anchors", "share_index", "stride_x", "dilation", "output", "group_id", "scale", "weights_type"),
    *("onlyforward", "width", "height", "channels", "batch_normalize", "activation", "weights_normalization"),
)
SECTIONS = (
    *("reorg", "reorg3d", "sam", "connected", "route", "avgpool", "shortcut", "yolo", "region", "softmax"),
    *("upsample", "net", "batchnorm", "local_avgpool", "Gaussian_yolo", "scale_channels", "dropout", "max"),
)
Lines = list[str]


def mutated_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Cut, flip, repeat, insert or drop some bytes."""
    way = rng.choice(("cut", "flip", "repeat", "insert", "drop", "zeros", "empty"))
    at = rng.randrange(len(data) + 1)
    count = rng.choice((1, 2, 4, 64, 4096))
    piece = data[at : at + count]
    changed = {
        "cut": data[:at],
        "repeat": data[:at] + piece + piece + data[at + count :],
        "insert": data[:at] + rng.randbytes(count) + data[at:],
        "drop": data[:at] + data[at + count :],
        "zeros": data[:at] + bytes(len(piece)) + data[at + count :],
        "flip": data[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in piece) + data[at + count :],
        "empty": b"",
    }
    return way, changed[way]


def mutated_lines(text: str, rng: random.Random) -> tuple[str, str]:
    """Change numbers, keys, references, sections and whole lines."""
    lines = text.split("\n")
    ways = []
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        way = rng.choice(list(_LINE_WAYS))
        _LINE_WAYS[way](lines, rng.randrange(len(lines)), rng)
        ways.append(way)
        lines = lines or [""]
    return " ".join(ways), "\n".join(lines)


def _value(lines: Lines, at: int, rng: random.Random) -> None:
    at = next((i % len(lines) for i in range(at, at + len(lines)) if "=" in lines[i % len(lines)]), at)
    lines[at] = lines[at].partition("=")[0] + "=" + rng.choice(NUMBERS)


def _letter(lines: Lines, at: int, rng: random.Random) -> None:
    place = rng.randrange(len(lines[at]) + 1)
    lines[at] = lines[at][:place] + chr(rng.randrange(1, 300)) + lines[at][place + 1 :]


def _key(lines: Lines, at: int, rng: random.Random) -> None:
    lines[at] = f"{rng.choice(KEYS)}={rng.choice(NUMBERS)}"


def _copy(lines: Lines, at: int, rng: random.Random) -> None:
    lines.insert(at, rng.choice(lines))


def _swap(lines: Lines, at: int, rng: random.Random) -> None:
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _remove(lines: Lines, at: int, _: random.Random) -> None:
    del lines[at]


def _section(lines: Lines, at: int, rng: random.Random) -> None:
    lines[at] = f"[{rng.choice(SECTIONS)}]"


_LINE_WAYS: Mapping[str, Callable[[Lines, int, random.Random], None]] = {
    "value": _value,
    "letter": _letter,
    "key": _key,
    "copy": _copy,
    "swap": _swap,
    "remove": _remove,
    "section": _section,
}
