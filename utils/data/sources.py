"""What a detector can look at: an image, a folder, a pattern, a list, a video or a camera.

Invariant: an image source names at least one existing file, in a stable order and each once; a video source
yields frames until it ends, and gives its device or file back when it is left.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .listing import read_image_list

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
# what a camera or file that does not know its rate is taken for
DEFAULT_RATE = 25.0


def is_video(source: str) -> bool:
    """Whether a source means moving pictures: a camera's number, or a video file by its suffix."""
    return source.isdecimal() or source.lower().endswith(VIDEO_SUFFIXES)


def find_images(source: str) -> tuple[Path, ...]:
    """The image files that a source means.

    Args:
        source: an image, a folder of images, a pattern such as `"shots/*.jpg"` (`**` for folders below), or
            a `.txt` list as in a .data file.

    Raises:
        DatasetError: there is no such file, or no image in it.
    """
    path = Path(source)
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
        kinds = ", ".join(IMAGE_SUFFIXES)
        return _some(
            sorted(found),
            DatasetError(f"--source {source}", "no image in this folder", f"it may hold {kinds}"),
        )
    if path.suffix.lower() == ".txt" and path.is_file():
        return tuple(dict.fromkeys(read_image_list(path).images))
    if path.is_file():
        return (path,)
    if any(letter in source for letter in "*?["):
        matches = (Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES)
        return _some(
            files, DatasetError(f"--source {source}", "no image matches", "check the pattern and quote it")
        )
    remedy = "give an image, a folder, a pattern in quotes, a list, a video or the number of a camera"
    raise DatasetError(f"--source {source}", "no such file or folder", remedy)


def _some(files: list[Path], error: DatasetError) -> tuple[Path, ...]:
    if not files:
        raise error
    return tuple(files)


class Video:
    """An opened video or camera.

    Attributes:
        rate: frames a second.
        length: number of frames as far as the file knows it, 0 for a camera.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else DEFAULT_RATE
        self.length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[Image]:
        """The frames, RGB (h, w, 3)."""
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


@contextmanager
def open_video(source: str) -> Iterator[Video]:
    """Open a video file, or a camera by its number.

    Raises:
        DatasetError: it is missing, or no such camera answers.
    """
    if not source.isdecimal() and not Path(source).is_file():
        raise DatasetError(f"--source {source}", "no such file", f"check the path, relative to {Path.cwd()}")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            camera = "no camera answers to this number; try another, or give a file"
            fact = camera if source.isdecimal() else "OpenCV cannot read this video; convert it to mp4"
            raise DatasetError(f"--source {source}", fact)
        yield Video(capture)
    finally:
        capture.release()


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[cv2.VideoWriter]:
    """Open a video file for frames BGR of `size` (h, w); it is closed, and so playable, however it is left.

    Raises:
        DatasetError: OpenCV cannot write such a file.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
    try:
        if not writer.isOpened():
            raise DatasetError(path, "OpenCV cannot write this video", "choose another --output")
        yield writer
    finally:
        writer.release()
