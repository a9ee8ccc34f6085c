"""Image and label files to read."""

from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    """A random image; PNG keeps every pixel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def write_label(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
