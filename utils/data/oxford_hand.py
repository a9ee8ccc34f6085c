"""The Oxford hand data set: MATLAB files with the four corners of each hand.

A corner is (y, x) in pixels counted from 1; hands are rotated, the label is the upright box around them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from .annotations import Annotated, Annotations
from .images import read_image

# our split -> the folder below hand_dataset
FOLDERS = {
    "train": "training_dataset/training_data",
    "valid": "validation_dataset/validation_data",
    "test": "test_dataset/test_data",
}


def read_hands(root: Path, split: str, progress: Callable[[], object] | None = None) -> Annotations:
    """Read one split of the unpacked archive.

    Args:
        root: the folder `hand_dataset`.
        split: "train", "valid" or "test".
        progress: called after each image.

    Raises:
        DatasetError: scipy is missing, or a file is missing or of another kind.
    """
    folder = root / FOLDERS[split]
    files = sorted((folder / "annotations").glob("*.mat"))
    if not files:
        raise DatasetError(folder, "has no annotations/*.mat", "give the unpacked hand_dataset folder")
    result = Annotations(("hand",), [])
    for path in files:
        image = folder / "images" / f"{path.stem}.jpg"
        if progress:
            progress()
        if not image.is_file():
            result.dropped["images that do not exist"] += 1
            continue
        result.images.append(Annotated(image, Path(split) / image.name))
        height, width = read_image(image).shape[:2]
        for corners in _hands(path):
            top, left = corners.min(axis=0) - 1
            bottom, right = corners.max(axis=0) - 1
            box = (float(left), float(top), float(right), float(bottom))
            result.add(result.images[-1], 0, box, (float(width), float(height)))
    return result


def _hands(path: Path) -> list[Any]:
    """(4, 2) y and x of each hand's corners."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(path, "needs scipy, which is missing", "python -m pip install scipy") from error
    try:
        cells = np.asarray(loadmat(path, simplify_cells=True, variable_names=["boxes"])["boxes"]).ravel()
        hands = [np.array([cell[key] for key in "abcd"], float).reshape(4, 2) for cell in cells]
    except Exception as error:  # noqa: BLE001 - scipy raises whatever it meets in a damaged file
        fact = f"has no boxes in the format of the hand data set ({error})"
        raise DatasetError(path, fact, "unpack the archive again") from None
    return [hand for hand in hands if np.isfinite(hand).all()]
