"""Grounds and surfaces for the embedded data set.

Invariant: all chance comes from the generator that is passed in.
"""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]

# least distance of two colours (0..255 for each channel) that the eye and a small network tell apart
_LEAST_CONTRAST = 90.0


def random_colour(
    rng: np.random.Generator, away_from: NDArray[np.float64] | None = None, hue: float | None = None
) -> NDArray[np.float64]:
    """A BGR colour (3,) in 0..255, well apart from `away_from` and near `hue` (in turns), where given."""
    while True:
        colour = rng.uniform(10, 245, 3) if hue is None else _strong_colour(hue, rng)
        if away_from is None or np.linalg.norm(colour - away_from) >= _LEAST_CONTRAST:
            return colour


def _strong_colour(hue: float, rng: np.random.Generator) -> NDArray[np.float64]:
    turns = (hue + rng.uniform(-0.06, 0.06)) % 1
    red, green, blue = colorsys.hsv_to_rgb(turns, rng.uniform(0.5, 1), rng.uniform(0.35, 1))
    return 255 * np.array([blue, green, red])


def background(height: int, width: int, rng: np.random.Generator) -> Image:
    """A ground (h, w, 3): two muted colours mixed by a gradient and a random texture."""
    first = _muted(random_colour(rng)).astype(np.float32)
    change = rng.uniform(-70, 70, 3).astype(np.float32)
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))](height, width, rng)
    share = np.float32(rng.uniform(0.3, 0.8))
    mix = share * texture + (1 - share) * _gradient(height, width, rng)
    ground = first + change * mix[..., None]
    return np.clip(ground, 0, 255).astype(np.uint8)


def shaded(height: int, width: int, colour: NDArray[np.float64], rng: np.random.Generator) -> Plane:
    """A surface (h, w, 3) in 0..255: one colour, lighter and darker by a gradient, at times striped."""
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
