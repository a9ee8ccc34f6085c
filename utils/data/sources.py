"""Sources for detection: an image, a folder, a pattern, a list, a video or a camera.

Invariant: an image source gives at least one existing file, in a stable order and each once; a video source
yields frames until it ends, and releases its device or file on exit.
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
# for a camera or file that does not report its rate
DEFAULT_RATE = 25.0


def is_video(source: str) -> bool:
    """Whether a source is a video: the number of a camera, or a video file by its suffix."""
    return source.isdecimal() or source.lower().endswith(VIDEO_SUFFIXES)


def find_images(source: str) -> tuple[Path, ...]:
    """Find the image files of a source.

    Args:
        source: an image, a folder of images, a pattern such as `"shots/*.jpg"` (`**` for folders below), or
            a `.txt` list as in a .data file.

    Raises:
        DatasetError: the file does not exist, or the folder has no image.
    """
    path = Path(source)
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            remedy = f"supported suffixes are {', '.join(IMAGE_SUFFIXES)}"
            raise DatasetError(f"--source {source}", "no image in this folder", remedy)
        return tuple(sorted(found))
    if path.suffix.lower() == ".txt" and path.is_file():
        return tuple(dict.fromkeys(read_image_list(path).images))
    if path.is_file():
        return (path,)
    if any(letter in source for letter in "*?["):
        matches = (Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DatasetError(f"--source {source}", "no image matches", "check the pattern and quote it")
        return tuple(files)
    remedy = "give an image, a folder, a pattern in quotes, a list, a video or the number of a camera"
    raise DatasetError(f"--source {source}", "no such file or folder", remedy)


class Video:
    """An opened video or camera.

    Attributes:
        rate: frames a second.
        length: number of frames if the file reports it, else 0.
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
        DatasetError: the file is missing or unreadable, or the camera does not respond.
    """
    if not source.isdecimal() and not Path(source).is_file():
        raise DatasetError(f"--source {source}", "no such file", f"check the path, relative to {Path.cwd()}")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            fact, remedy = "OpenCV cannot read this video", "convert it to mp4"
            if source.isdecimal():
                fact, remedy = "this camera does not respond", "try another number, or give a file"
            raise DatasetError(f"--source {source}", fact, remedy)
        yield Video(capture)
    finally:
        capture.release()


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[cv2.VideoWriter]:
    """Open a video file for BGR frames of `size` (h, w); it is always closed, and so playable.

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
