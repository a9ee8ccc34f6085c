"""A small data set on disk, in the layout that most users have: images/ and labels/ side by side."""

from pathlib import Path

import cv2
import numpy as np
import pytest


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


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Six images of different sizes with one object each, two classes, one list for both splits."""
    folder = tmp_path / "set"
    lines = []
    for number in range(6):
        write_image(folder / f"images/{number}.png", 30 + number, 50 - number, seed=number)
        write_label(folder / f"labels/{number}.txt", f"{number % 2} 0.5 0.5 0.{number + 1} 0.25\n")
        lines.append(f"images/{number}.png\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "x.names").write_text("one\ntwo\n")
    path = folder / "x.data"
    path.write_text("classes=2\ntrain=list.txt\nvalid=list.txt\nnames=x.names\n")
    return path
