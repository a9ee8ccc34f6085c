"""Output of detections: a line of text, a picture, a label file, entries of a JSON file, a window."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.sources import IMAGE_SUFFIXES
from ...detection.draw import draw_detections
from ...errors import ToolkitError
from ...files import atomic_path, write_text
from ...runtimes.detecting import Floats, Times

Image = NDArray[np.uint8]
_KEPT_SUFFIXES = frozenset(IMAGE_SUFFIXES) - {".gif", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Picture:
    """An image and what was found on it.

    Attributes:
        image: RGB (h, w, 3).
        rows: (M, 6) xyxy in pixels, score, class.
        name: for messages and the JSON file.
        image_id: its number in the JSON file.
        stem: of its label file.
    """

    image: Image
    rows: Floats
    name: str
    image_id: int
    stem: str


class Recorder:
    """Writes what is found and keeps count.

    Attributes:
        boxes: entries of a COCO result file, see `coco_results`.
        times: of each image.
        labels: folder of the label files.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, *, save_txt: bool = False, window: "Window | None" = None
    ) -> None:
        self.boxes: list[dict[str, Any]] = []
        self.times: list[Times] = []
        self.labels = folder / "labels"
        self._names, self._folder, self._save_txt, self._window = names, folder, save_txt, window
        self._objects: Counter[int] = Counter()

    @property
    def objects(self) -> dict[str, int]:
        """Number of boxes of each class that was found, by its name."""
        return {self._names[kind]: count for kind, count in sorted(self._objects.items())}

    def targets(self, images: Sequence[Path], inputs: Sequence[Path] = ()) -> list[Path]:
        """The file of each picture: its own name, with a number appended if that is taken.

        Raises:
            ToolkitError: a picture would overwrite an input.
        """
        given = {path.resolve() for path in (*images, *inputs)}
        taken: set[str] = set()
        targets = []
        for path in images:
            suffix = path.suffix.lower() if path.suffix.lower() in (*_KEPT_SUFFIXES, ".mp4") else ".png"
            stem, count = path.stem, 1
            while stem in taken:
                count += 1
                stem = f"{path.stem}-{count}"
            taken.add(stem)
            target = self._folder / f"{stem}{suffix}"
            if target.resolve() in given:
                raise ToolkitError(target, "is an input and would be overwritten", "choose another --output")
            targets.append(target)
        return targets

    def line(self, picture: Picture, times: Times) -> str:
        """A line about one picture: its objects by class, and the milliseconds it took."""
        counts = Counter(picture.rows[:, 5].astype(int).tolist())
        found = ", ".join(f"{count} {self._names[kind]}" for kind, count in sorted(counts.items()))
        return f"{picture.name}: {found or 'nothing'}   {1000 * sum(times):.1f} ms"

    def drawn(self, picture: Picture, times: Times) -> Image:
        """The picture with its boxes; also counts it, shows it and writes its label file."""
        self._objects.update(picture.rows[:, 5].astype(int).tolist())
        self.times.append(times)
        self.boxes += coco_results(picture)
        if self._save_txt:
            write_text(self.labels / f"{picture.stem}.txt", label_lines(picture))
        canvas = draw_detections(picture.image, picture.rows, self._names)
        if self._window:
            self._window.update(canvas, picture.name)
        return canvas

    def save(self, picture: Picture, times: Times, target: Path) -> None:
        """Write the picture with its boxes to `target`."""
        canvas = self.drawn(picture, times)
        is_encoded, data = cv2.imencode(target.suffix, canvas[..., ::-1])
        if not is_encoded:
            raise ToolkitError(target, "OpenCV cannot write this kind of image", "use .jpg or .png images")
        with atomic_path(target) as temporary:
            temporary.write_bytes(data.tobytes())

    def write_json(self, path: Path) -> None:
        """Write all boxes as a COCO result file."""
        write_text(path, json.dumps(self.boxes, indent=1) + "\n")


def label_lines(picture: Picture) -> str:
    """A Darknet label file with scores: `class x y w h score`, fractions of the image.

    Boxes are clipped to the image.
    """
    height, width = picture.image.shape[:2]
    lines = []
    for left, top, right, bottom, score, kind in _clipped(picture).tolist():
        centre = (left + right) / 2 / width, (top + bottom) / 2 / height
        numbers = (*centre, (right - left) / width, (bottom - top) / height, score)
        lines.append(" ".join([str(int(kind)), *(f"{number:.6f}" for number in numbers)]))
    return "".join(f"{line}\n" for line in lines)


def coco_results(picture: Picture) -> list[dict[str, Any]]:
    """The picture's entries of a COCO result file: bbox is left, top, width, height in pixels.

    `category_id` is the class number as in label files, from 0; `file_name` is an addition.
    """
    return [
        {
            "image_id": picture.image_id,
            "file_name": picture.name,
            "category_id": int(kind),
            "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 5),
        }
        for left, top, right, bottom, score, kind in _clipped(picture).tolist()
    ]


def _clipped(picture: Picture) -> Floats:
    height, width = picture.image.shape[:2]
    rows = picture.rows.copy()
    rows[:, :4] = rows[:, :4].clip(0, (width, height, width, height))
    return rows


class Window:
    """A matplotlib window that shows one picture after another."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            ToolkitError: there is no display.
        """
        import matplotlib
        from matplotlib import pyplot

        if matplotlib.get_backend().lower() == "agg":
            raise ToolkitError("--show", "no display found", "leave it out, the pictures are written anyway")
        self._pyplot = pyplot
        self._figure, self._axes = pyplot.subplots(layout="tight")
        self._axes.set_axis_off()

    def update(self, picture: Image, title: str) -> None:
        """Show an RGB picture."""
        self._axes.clear()
        self._axes.set_axis_off()
        self._axes.set_title(title)
        self._axes.imshow(picture)
        self._pyplot.pause(0.001)


def keep_window() -> None:
    """Wait until the window with the last picture is closed."""
    from matplotlib import pyplot

    pyplot.show()
