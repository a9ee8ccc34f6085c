"""Files as they should not be, and what each kind of reader makes of them.

A case is a kind and a number; the same case is the same file on every machine. A reader may read a case or
refuse it with the error of its kind; anything else that it raises is a fault of this project.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.mutations import NUMBERS, mutated_bytes, mutated_lines
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.data.images import read_image
from utils.data.labels import label_path, read_labels
from utils.data.listing import SPLITS, read_data_file
from utils.errors import CfgError, DatasetError, ToolkitError, WeightsError
from utils.frontends.darknet.subject import trace

ROOT = Path(__file__).resolve().parents[1]
# above this many weights a network is built without memory, and above this many values in its maps it is not
# run
MOST_WEIGHTS, MOST_VALUES = 2_000_000, 30_000_000


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "read", the name of the error it was refused with, or "FAULT: ..."."""

    mutation: str
    outcome: str
    message: str = ""


def run_case(kind: str, number: int, folder: Path) -> Outcome:
    """Make the case in `folder` and read it."""
    rng = random.Random(f"{kind} {number}")
    make, read, refusals = KINDS[kind]
    mutation, path = make(rng, folder)
    try:
        read(path)
    except refusals as error:
        message = str(error)
        is_placed = re.match(rf"(cfg in )?{re.escape(str(folder))}", error.place) is not None
        is_whole = error.fact.startswith(("contains no", "is binary"))  # these have no line
        if not is_placed or (kind == "cfg" and not is_whole and not re.search(r"\.cfg:\d+", error.place)):
            return Outcome(mutation, "FAULT: no place", message)
        return Outcome(mutation, type(error).__name__, message)
    except Exception as error:  # noqa: BLE001 - whatever else it is, is the finding
        return Outcome(mutation, f"FAULT: {type(error).__name__}", str(error))
    return Outcome(mutation, "read")


def _seeds(*patterns: str) -> list[Path]:
    folders = (ROOT, ROOT.parent / "shared")
    return sorted(path for folder in folders for pattern in patterns for path in folder.glob(pattern))


def make_cfg(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A cfg of the project or the stock, changed by bytes or by lines."""
    seed = rng.choice(_seeds("cfg/*.cfg", "tests/cfgs/*.cfg", "zoo/*.cfg")).read_bytes()
    path = folder / "case.cfg"
    if rng.random() < 0.25:
        way, data = mutated_bytes(seed, rng)
    else:
        way, text = mutated_lines(seed.decode("latin-1"), rng)
        data = text.encode()
    path.write_bytes(data)
    return way, path


def read_cfg(path: Path) -> None:
    """Everything that a cfg goes through before weights are there."""
    network = Network.from_cfg(path)
    assert Network.from_text(network.to_cfg()).sections == network.sections, "round trip"
    is_large = sum(network.weight_counts) > MOST_WEIGHTS
    with torch.device("meta" if is_large else "cpu"):
        model = Darknet(network).eval()
    trace(network)
    values = sum(int(np.prod(network.shape(index))) for index in range(-1, len(network)))
    if not is_large and values < MOST_VALUES:
        with torch.no_grad():
            model(torch.zeros(1, network.channels(-1), network.height, network.width))


_CFG = ROOT / "tests/cfgs/upsample.cfg"


def _weights(rng: random.Random, path: Path) -> tuple[str, Path]:
    save_weights(Darknet.from_cfg(_CFG), path)
    way, data = mutated_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return way, path


def make_weights(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A damaged Darknet binary."""
    return _weights(rng, folder / "case.weights")


def make_checkpoint(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A damaged .pt, or one with other content than tensors."""
    path = folder / "case.pt"
    if rng.random() < 0.7:
        return _weights(rng, path)
    contents: Sequence[object] = (
        [], {}, {"model": 3}, {"model": {"x": torch.ones(2)}}, {"model": {}, "cfg": "[net]"}, torch.ones(3),
        {"model": {"layers.0.conv.weight": torch.ones(1)}}, {"model": {1: torch.ones(1)}}, "text",
        {"model": {"layers.0.conv.weight": "x"}}, {"model": {}, "cfg": 5},
        {"model": {}, "cfg": "", "header": {"major": "x"}},
    )  # fmt: skip
    torch.save(rng.choice(contents), path)
    return "content", path


def read_into_a_model(path: Path) -> None:
    """Load weights; a refusal must leave the model as it was."""
    model = Darknet.from_cfg(_CFG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load_weights(model, path)
    except WeightsError:
        same = (torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        if not all(same):
            raise RuntimeError("a refused file changed the model") from None
        raise


def make_labels(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A label file with wrong numbers, fields or bytes."""
    words = [*NUMBERS, "0", "1", ".5", "0.25", "1.005", "-0.001"]
    lines = [
        " ".join(
            rng.choice(words) if rng.random() < 0.2 else f"{rng.random():.4f}"
            for _ in range(rng.choice((4, 5, 5, 5, 6)))
        )
        for _ in range(rng.randrange(8))
    ]
    lines = [line if rng.random() < 0.3 else f"{rng.randrange(3)} {line.partition(' ')[2]}" for line in lines]
    way, data = "lines", "\n".join(lines).encode()
    if rng.random() < 0.3:
        way, data = mutated_bytes(data, rng)
    path = folder / "case.txt"
    path.write_bytes(data)
    return way, path


def read_label_file(path: Path) -> None:
    """What is returned must be valid."""
    rows = read_labels(path, 3).array
    assert rows.shape[1:] == (5,), "shape"
    assert np.isfinite(rows).all(), "not finite"
    assert ((rows[:, 0] >= 0) & (rows[:, 0] < 3)).all(), "class"
    assert (rows[:, 3:] > 0).all(), "size"


def make_data(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """A .data file, its names or a list, changed."""
    files = {
        "case.data": "classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = case.names\nbackup = out\n",
        "case.names": "one\ntwo\n",
        "train.txt": "a.jpg\ndeep/b.jpg\n../a.jpg\n",
        "valid.txt": "a.jpg\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "a.jpg").write_bytes(b"x")
    name = rng.choice(["case.data", "case.data", *files])
    text = files[name]
    if rng.random() < 0.3:
        way, data = mutated_bytes(text.encode(), rng)
    else:
        way, changed = mutated_lines(text, rng)
        data = changed.encode()
    (folder / name).write_bytes(data)
    return f"{name} {way}", folder / "case.data"


def read_data(path: Path) -> None:
    """All that a command reads of it."""
    data = read_data_file(path)
    assert len(data.names) == data.classes > 0, "names"
    for split in SPLITS:
        if getattr(data, split) is not None:
            for image in data.image_list(split):
                label_path(image)


def make_image(rng: random.Random, folder: Path) -> tuple[str, Path]:
    """An image of some format and depth, damaged, misnamed, or with a header that claims too much."""
    if rng.random() < 0.1:
        return "bomb", _bomb(rng, folder / "case.png")
    suffix = rng.choice((".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif", ".ppm"))
    shape = (rng.randrange(1, 40), rng.randrange(1, 40), *rng.choice(((), (3,), (3,), (4,))))
    deep = suffix in (".png", ".tiff") and rng.random() < 0.4
    pixels = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, shape)
    image: np.ndarray = pixels.astype(np.uint16) * 257 if deep else pixels.astype(np.uint8)
    if suffix in (".gif", ".jpg", ".ppm") and image.ndim == 3:
        image = image[..., :3]
    if suffix == ".gif" and image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    is_encoded, encoded = cv2.imencode(suffix, image)
    if not is_encoded:  # not every format takes every form
        suffix = ".png"
        encoded = cv2.imencode(suffix, image)[1]
    way, data = "whole", encoded.tobytes()
    if rng.random() < 0.8:
        way, data = mutated_bytes(data, rng)
    path = folder / f"case{rng.choice((suffix, '.jpg', '.png', '.txt'))}"
    path.write_bytes(data)
    return f"{suffix} {image.dtype} {way}", path


def _bomb(rng: random.Random, path: Path) -> Path:
    """A PNG or BMP header of up to 100,000 x 100,000 pixels, with next to nothing behind it."""
    side = rng.choice((20_000, 50_000, 100_000))
    header = struct.pack(">IIBBBBB", side, rng.choice((1, side)), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def read_image_file(path: Path) -> None:
    """An image is three channels of bytes, whatever the file had."""
    image = read_image(path)
    assert image.dtype == np.uint8, "type"
    assert image.ndim == 3, "dimensions"
    assert image.shape[2] == 3, "channels"
    assert min(image.shape) > 0, "empty"


Maker = Callable[[random.Random, Path], tuple[str, Path]]
Reader = Callable[[Path], None]
KINDS: Mapping[str, tuple[Maker, Reader, tuple[type[ToolkitError], ...]]] = {
    "cfg": (make_cfg, read_cfg, (CfgError,)),
    "weights": (make_weights, read_into_a_model, (WeightsError,)),
    "pt": (make_checkpoint, read_into_a_model, (WeightsError, CfgError)),
    "labels": (make_labels, read_label_file, ()),
    "data": (make_data, read_data, (DatasetError,)),
    "images": (make_image, read_image_file, (DatasetError,)),
}
