"""Draw detections on images.

Invariant: a class has the same colour in every picture, and labels stay inside the picture.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# with this step on the hue circle, successive classes get very different colours
_GOLDEN_TURN = 0.618034
_PAPER = (248, 248, 248)
_INK = (40, 40, 40)


def class_colour(number: int) -> Colour:
    """The colour (R, G, B) of a class, in 0..255: strong, and light enough for dark backgrounds."""
    turns = 0.58 + number * _GOLDEN_TURN
    # after each full turn of the circle the tone changes a little
    value = (0.95, 0.8, 0.88)[int(turns) % 3]
    red, green, blue = colorsys.hsv_to_rgb(turns % 1, 0.8, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Image, detections: NDArray[np.floating], names: Sequence[str], enlarge: int = 1
) -> Image:
    """Draw boxes with their class and score.

    Args:
        image: RGB (h, w, 3), not changed. With a BGR array red and blue are swapped.
        detections: (M, 6) xyxy in pixels of the image, score 0..1, class; drawn worst first.
        names: class names; letters that OpenCV's font lacks (all beyond ASCII) show as `?`.
        enlarge: whole factor on the picture's size, so that labels on small images can be read.

    Returns:
        (h * enlarge, w * enlarge, 3): a new picture.
    """
    height, width = image.shape[0] * enlarge, image.shape[1] * enlarge
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.array(resized, np.uint8)
    line = max(1, round(min(height, width) / 240))
    ordered = detections[np.argsort(detections[:, 4])]
    corners = np.round(np.clip(ordered[:, :4] * enlarge, -1e4, 1e4)).astype(int).tolist()
    for (left, top, right, bottom), kind in zip(corners, ordered[:, 5], strict=True):
        cv2.rectangle(picture, (left, top), (right, bottom), class_colour(int(kind)), line)
    labels: list[_Label] = []
    for box, (score, kind) in zip(reversed(corners), ordered[::-1, 4:], strict=True):  # the best choose first
        text = f"{names[int(kind)]} {score:.2f}"
        taken = [label.plate for label in labels]
        labels.append(_laid_out(text, box, class_colour(int(kind)), picture.shape[:2], line, taken))
    # after all boxes, so that none covers a label, and the best on top
    for label in reversed(labels):
        _paint(picture, label)
    return picture


def contact_sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str], cell: int = 360) -> Image:
    """Arrange pictures in a grid with a title above each column, such as "before" and "after".

    Args:
        rows: RGB pictures of any size; every row has one for each title.
        titles: one for each column.
        cell: side in pixels of the square that each picture is fitted into.

    Returns:
        RGB (h, w, 3).
    """
    gap = cell // 30
    head = cell // 10
    pitch = cell + gap
    sheet = np.full((head + gap + len(rows) * pitch, gap + len(titles) * pitch, 3), _PAPER, np.uint8)
    for column, title in enumerate(titles):
        at = (gap + column * pitch, head - gap // 2)
        cv2.putText(sheet, title, at, _FONT, cell / 480, _INK, max(1, cell // 240), cv2.LINE_AA)
        for row, pictures in enumerate(rows):
            fitted = _fit(pictures[column], cell)
            top = head + gap // 2 + row * pitch + (cell - fitted.shape[0]) // 2
            left = gap + column * pitch + (cell - fitted.shape[1]) // 2
            sheet[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet


def _fit(picture: Image, side: int) -> Image:
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


@dataclass(frozen=True)
class _Label:
    """A text on a plate: position and size."""

    text: str
    plate: Box
    colour: Colour
    scale: float
    stroke: int
    pad: int
    text_height: int


def _laid_out(
    text: str, box: Sequence[int], colour: Colour, size: tuple[int, int], line: int, taken: Sequence[Box]
) -> _Label:
    """Place a label at a box in a picture of `size` (h, w), avoiding the `taken` areas if possible."""
    height, width = size
    scale = float(np.clip(min(height, width) / 1000, 0.38, 2.0))
    stroke = max(1, round(scale * 1.6))
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, stroke)
    pad = 2 + line
    plate_width, plate_height = text_width + 2 * pad, text_height + below // 2 + 2 * pad

    def placed(corner: tuple[int, int]) -> Box:
        left = int(np.clip(corner[0], 0, max(0, width - plate_width)))
        top = int(np.clip(corner[1], 0, max(0, height - plate_height)))
        return left, top, left + plate_width, top + plate_height

    candidates = [placed(corner) for corner in _places(box, plate_width, plate_height, line)]
    free = (plate for plate in candidates if not any(_overlap(plate, other) for other in taken))
    return _Label(text, next(free, candidates[0]), colour, scale, stroke, pad, text_height)


def _paint(picture: Image, label: _Label) -> None:
    left, top, right, bottom = label.plate
    cv2.rectangle(picture, (left, top), (right, bottom), label.colour, cv2.FILLED)
    ink = (20, 20, 20) if np.dot(label.colour, (0.299, 0.587, 0.114)) > 120 else (255, 255, 255)
    at = (left + label.pad, top + label.pad + label.text_height)
    cv2.putText(picture, label.text, at, _FONT, label.scale, ink, label.stroke, cv2.LINE_AA)


def _places(box: Sequence[int], width: int, height: int, line: int) -> list[tuple[int, int]]:
    """Candidate positions (left, top) of a plate at a box: above, inside at the top, below, then right."""
    left, top, right, bottom = box
    start = left - line // 2
    rows = (top - height, top, bottom)
    return [*((start, row) for row in rows), *((right - width, row) for row in rows), (right, top)]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
