"""The built-in data set: coloured shapes on textured backgrounds, generated from a seed.

Four classes, rotated, shaded and partly hidden by one another and by bars without a label; some images are
empty. Most objects have the colour of their class, the others any colour. Small enough to generate in seconds
and to learn in minutes, hard enough that the effect of pruning is visible.

Invariant: the files depend on the seed alone, byte for byte (with one version of numpy and OpenCV).
"""

import colorsys
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from ..files import write_text

logger = logging.getLogger(__name__)

NAMES = ("circle", "square", "triangle", "star")
SPLIT_SIZES = {"train": 300, "valid": 80, "test": 80}
SEED = 0

_SIDES = (160, 320)  # pixels of an image's side
_SHARES = (0.15, 0.45)  # an object's extent, as a share of the image's shorter side ...
_EXTENTS = (12, 100)  # ... and in pixels
_MOST_OBJECTS = 6
_EMPTY = 0.06  # share of images without any object
_HUES = (0.0, 0.6, 0.35, 0.14)  # of each class, 0..1: red, blue, green, yellow
_ANY_COLOUR = 0.15  # share of objects that have any colour
_LEAST_VISIBLE = 0.5  # an object hidden further than this is not placed
_TRIES = 12
_QUALITY = 92
_LEAST_CONTRAST = 90.0  # distance of two colours (0..255 a channel) that a small network tells apart
_NOBODY = 255  # owner of pixels that show a bar
_SUBPIXEL = 4  # OpenCV draws polygons on a grid of 2 ** -4 pixels

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]  # (h, w) or (h, w, 3) of brightness or colour
Points = NDArray[np.float64]


@dataclass(frozen=True)
class _Placed:
    """An object on an image: its class, its outline (k, 2) in pixels and its area, hidden parts included."""

    kind: int
    outline: Points
    area: float


@dataclass(frozen=True)
class _Scene:
    """An image being drawn.

    Attributes:
        image: BGR (h, w, 3).
        owners: (h, w) which object is seen at each pixel: its number from 1, 0 for the ground, or _NOBODY.
        placed: the objects so far.
    """

    image: Image
    owners: NDArray[np.uint8]
    placed: list[_Placed]


def ensure_shapes(folder: Path = Path("data")) -> Path:
    """Path of `shapes.data` in `folder`; the data set is generated if missing.

    Other processes may do the same at the same time: the first one moves a complete data set into place.
    """
    data_file = folder / "shapes.data"
    if not data_file.is_file() or not (folder / "shapes").is_dir():
        make_shapes(folder)
    return data_file


def make_shapes(folder: Path, seed: int = SEED, sizes: dict[str, int] | None = None) -> Path:
    """Generate the data set: `shapes/` with images, labels and lists, `shapes.names` and `shapes.data`.

    Args:
        folder: where to put them; an existing `shapes` folder is kept.
        seed: determines every byte.
        sizes: images of each split; SPLIT_SIZES by default.

    Returns:
        The path of `shapes.data`, written last.

    Raises:
        DatasetError: the folder cannot be written.
    """
    target = folder / "shapes"
    partial = folder / f".shapes.{os.getpid()}.part"
    try:
        if not target.is_dir():
            logger.info("generating the built-in data set in %s", target)
            (partial / "images").mkdir(parents=True)
            (partial / "labels").mkdir()
            for number, (split, count) in enumerate((sizes or SPLIT_SIZES).items()):
                _make_split(partial, split, count, [seed, number])
            _move_into_place(partial, target)
        write_text(folder / "shapes.names", "\n".join(NAMES) + "\n")
        lists = "".join(f"{split} = shapes/{split}.txt\n" for split in sizes or SPLIT_SIZES)
        text = f"classes = {len(NAMES)}\n{lists}names = shapes.names\nbackup = weights\n"
        write_text(folder / "shapes.data", text)
    except OSError as error:
        fact = f"cannot be written ({error.strerror})"
        raise DatasetError(target, fact, f"make {folder} writable") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / "shapes.data"


def draw_scene(rng: np.random.Generator) -> tuple[Image, NDArray[np.float32]]:
    """One random image and its objects.

    Returns:
        The image, BGR (h, w, 3), and its labels (n, 5): class and xywh as fractions of the image.
    """
    height, width = (int(side) for side in rng.integers(_SIDES[0], _SIDES[1] + 1, 2))
    scene = _Scene(_background(height, width, rng), np.zeros((height, width), np.uint8), [])
    count = 0 if rng.random() < _EMPTY else int(rng.integers(1, _MOST_OBJECTS + 1))
    for _ in range(count):
        _add_object(scene, rng)
    _add_bars(scene, rng)
    noise = rng.standard_normal(scene.image.shape, np.float32) * np.float32(rng.uniform(2, 7))
    return np.clip(scene.image + noise, 0, 255).astype(np.uint8), _labels(scene.placed, height, width)


def _make_split(folder: Path, split: str, count: int, seed: list[int]) -> None:
    names = []
    for number in range(count):
        image, labels = draw_scene(np.random.default_rng([*seed, number]))
        name = f"{split}_{number:04d}"
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        (folder / "images" / f"{name}.jpg").write_bytes(encoded.tobytes())
        lines = (f"{row[0]:.0f} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in labels)
        (folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
        names.append(f"images/{name}.jpg\n")
    (folder / f"{split}.txt").write_text("".join(names), encoding="utf-8", newline="\n")


def _move_into_place(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # another process was first; its files are the same
        if not target.is_dir():
            raise


def _add_object(scene: _Scene, rng: np.random.Generator) -> None:
    """Draw one more object where it leaves enough of the others visible; none after some tries."""
    height, width = scene.owners.shape
    for _ in range(_TRIES):
        share = np.exp(rng.uniform(*np.log(_SHARES)))
        extent = float(np.clip(share * min(height, width), *_EXTENTS))
        kind = int(rng.integers(len(NAMES)))
        # now and then a part lies outside the image
        centre = rng.uniform(0.3 * extent, np.array([width, height]) - 0.3 * extent)
        outline = _outline(kind, extent, rng) + centre
        hue = None if rng.random() < _ANY_COLOUR else _HUES[kind]
        if _draw(scene, outline, len(scene.placed) + 1, _polygon_area(outline), rng, hue):
            scene.placed.append(_Placed(kind, outline, _polygon_area(outline)))
            return


def _add_bars(scene: _Scene, rng: np.random.Generator) -> None:
    """Draw a few thin bars over the image, which hide parts of objects and have no label."""
    height, width = scene.owners.shape
    for _ in range(int(rng.integers(0, 4))):
        middle = rng.uniform(0, [width, height])
        angle = rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.1, 0.4) * max(height, width)
        across = np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(1.5, 5)
        corners = np.array([along + across, along - across, -along - across, -along + across])
        _draw(scene, corners + middle, _NOBODY, 0.0, rng)


def _draw(
    scene: _Scene,
    outline: Points,
    owner: int,
    area: float,
    rng: np.random.Generator,
    hue: float | None = None,
) -> bool:
    """Paint a polygon unless it, or an object under it, would be hidden too much; whether it was painted."""
    height, width = scene.owners.shape
    left, top = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(outline.max(0)).astype(int) + 2, 1, [width, height])
    window = np.s_[top:bottom, left:right]
    mask = _mask(outline - (left, top), bottom - top, right - left)
    covered = mask > 127
    if covered.sum() < _LEAST_VISIBLE * area or _hides(scene, scene.owners[window][covered]):
        return False
    _paint(scene.image[window], mask, rng, hue)
    scene.owners[window][covered] = owner
    return True


def _outline(kind: int, extent: float, rng: np.random.Generator) -> Points:
    """Corners (k, 2) of a shape at the origin, rotated at random, its box `extent` long."""
    corners = (64, 4, 3, 10)[kind]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    radii = np.ones(corners)
    if NAMES[kind] == "star":
        radii[1::2] = rng.uniform(0.4, 0.5)
    points = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radii[:, None]
    sides = np.ptp(points, axis=0)
    return (points - (points.min(0) + sides / 2)) * (extent / sides.max())


def _mask(outline: Points, height: int, width: int) -> NDArray[np.uint8]:
    """Coverage (h, w) of a polygon in 0..255, smooth at its edge."""
    mask = np.zeros((height, width), np.uint8)
    # OpenCV counts from pixel centres
    fixed = np.round((outline - 0.5) * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (255,), lineType=cv2.LINE_AA, shift=_SUBPIXEL)
    return mask


def _polygon_area(outline: Points) -> float:
    """Area of a polygon in pixels, including parts outside the image."""
    return float(cv2.contourArea(outline.astype(np.float32)))


def _hides(scene: _Scene, covered: NDArray[np.uint8]) -> bool:
    """Whether covering pixels with these owners would hide too much of an object."""
    left = np.bincount(scene.owners.ravel(), minlength=256) - np.bincount(covered, minlength=256)
    numbered = enumerate(scene.placed, start=1)
    return any(left[number] < _LEAST_VISIBLE * item.area for number, item in numbered)


def _paint(image: Image, mask: NDArray[np.uint8], rng: np.random.Generator, hue: float | None) -> None:
    """Paint a shaded surface through the mask, in a colour that differs from the image under it."""
    colour = _random_colour(rng, away_from=image.mean((0, 1)), hue=hue)
    surface = _shaded(mask.shape[0], mask.shape[1], colour, rng)
    alpha = mask[..., None] / 255
    image[:] = np.round(image * (1 - alpha) + surface * alpha).astype(np.uint8)


def _labels(placed: list[_Placed], height: int, width: int) -> NDArray[np.float32]:
    """Boxes around the outlines, clipped to the image: (n, 5) class and xywh as fractions."""
    size = np.array([width, height])
    rows = []
    for item in placed:
        low = np.clip(item.outline.min(0), 0, size)
        high = np.clip(item.outline.max(0), 0, size)
        rows.append([item.kind, *((low + high) / 2 / size), *((high - low) / size)])
    return np.array(rows, np.float32).reshape(-1, 5)


def _random_colour(
    rng: np.random.Generator, away_from: NDArray[np.float64] | None = None, hue: float | None = None
) -> NDArray[np.float64]:
    """A BGR colour (3,) in 0..255, different from `away_from` and near `hue` (0..1) if given."""
    while True:
        colour = rng.uniform(10, 245, 3) if hue is None else _strong_colour(hue, rng)
        if away_from is None or np.linalg.norm(colour - away_from) >= _LEAST_CONTRAST:
            return colour


def _strong_colour(hue: float, rng: np.random.Generator) -> NDArray[np.float64]:
    turns = (hue + rng.uniform(-0.06, 0.06)) % 1
    red, green, blue = colorsys.hsv_to_rgb(turns, rng.uniform(0.5, 1), rng.uniform(0.35, 1))
    return 255 * np.array([blue, green, red])


def _background(height: int, width: int, rng: np.random.Generator) -> Image:
    """A background (h, w, 3): two muted colours mixed by a gradient and a random texture."""
    first = _muted(_random_colour(rng)).astype(np.float32)
    change = rng.uniform(-70, 70, 3).astype(np.float32)
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))](height, width, rng)
    share = np.float32(rng.uniform(0.3, 0.8))
    mix = share * texture + (1 - share) * _gradient(height, width, rng)
    ground = first + change * mix[..., None]
    return np.clip(ground, 0, 255).astype(np.uint8)


def _shaded(height: int, width: int, colour: NDArray[np.float64], rng: np.random.Generator) -> Plane:
    """A surface (h, w, 3) in 0..255: one colour, lighter and darker by a gradient, sometimes striped."""
    light = 1 + np.float32(rng.uniform(0, 0.35)) * (_gradient(height, width, rng) - 0.5)
    if rng.random() < 0.3:
        light = light + np.float32(rng.uniform(0.1, 0.25)) * (_stripes(height, width, rng) - 0.5)
    return np.clip(colour.astype(np.float32) * light[..., None], 0, 255)


def _muted(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * colour + 0.5 * colour.mean()


def _phase(height: int, width: int, rng: np.random.Generator) -> Plane:
    """Distance (h, w) in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    return columns * np.float32(np.cos(angle)) + (rows * np.float32(np.sin(angle)))[:, None]


def _gradient(height: int, width: int, rng: np.random.Generator) -> Plane:
    phase = _phase(height, width, rng)
    return (phase - phase.min()) / np.ptp(phase)


def _stripes(height: int, width: int, rng: np.random.Generator) -> Plane:
    period = rng.uniform(5, 40)
    return 0.5 + 0.5 * np.sin(_phase(height, width, rng) * np.float32(2 * np.pi / period))


def _checks(height: int, width: int, rng: np.random.Generator) -> Plane:
    first, second = _stripes(height, width, rng), _stripes(height, width, rng)
    return ((first > 0.5) ^ (second > 0.5)).astype(np.float32)


def _clouds(height: int, width: int, rng: np.random.Generator) -> Plane:
    """Smooth noise: coarse random grids of several sizes, enlarged and added up."""
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.5), (9, 0.3), (27, 0.2)):
        grid = rng.random((cells, cells), np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 1)


def _grain(height: int, width: int, rng: np.random.Generator) -> Plane:
    """Fine noise of grains a few pixels wide."""
    smooth = cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), 1.2)
    return np.clip(0.5 + 1.5 * (smooth - 0.5), 0, 1)


_TEXTURES = (_clouds, _grain, _stripes, _checks)
