"""Images and their labels, resized to the network's input.

Invariant: an item depends only on the files, the options and its key, not on the process that reads it or the
time; without augmentation it is exactly the input that the C program computes.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DatasetError
from .augment import Augment, Composer, Picture
from .cache import DiskCache
from .images import Placement, decode, fit, place, read_image, resize_exactly
from .labels import LabelIndex, label_path, read_index
from .listing import DataFile, ImageList

logger = logging.getLogger(__name__)

# decoded images are kept in memory up to this many bytes
CACHE_BYTES = 1 << 30


class SampleKey(NamedTuple):
    """The key of an item: its number, and the epoch and seed that determine its random changes.

    `size` is the height and width of its input, None for the dataset's. `letterbox` keeps its aspect even if
    the dataset stretches, for an input that was made for the image's aspect. `copy` counts how often the
    image came before in the epoch, so that the copies differ.
    """

    number: int
    epoch: int = 0
    seed: int = 0
    size: tuple[int, int] | None = None
    letterbox: bool = False
    copy: int = 0


@dataclass(frozen=True)
class Sample:
    """One image at the network's input size.

    Attributes:
        number: of the image in the dataset.
        image: (3, H, W), 0..255; uint8 if augmented or rectangular, else float32.
        labels: (n, 5) float32: class and xywh as fractions of the network input.
        path: the image file.
        size: height and width of the original image.
        placement: of the original in the network input; meaningless if augmented.
    """

    number: int
    image: Tensor
    labels: NDArray[np.float32]
    path: Path
    size: tuple[int, int]
    placement: Placement


class DetectionDataset(Dataset[Sample | str]):
    """Images with labels; `dataset[key]` is a Sample, or a line of text if the image cannot be used.

    Attributes:
        images: image files, in order.
        classes: number of classes.
        image_size: height and width of the network input.
        index: the labels of all images and their problems.
        letterbox: whether images keep their aspect.
        rectangles: cell size in pixels if each image has its own input shape, see `fit`; else None.
        missing: number of listed images that do not exist.
    """

    def __init__(
        self,
        images: ImageList | Sequence[Path],
        classes: int,
        image_size: tuple[int, int],
        *,
        letterbox: bool = False,
        rectangles: int | None = None,
        augment: Augment | None = None,
        cache: str | None = None,
    ) -> None:
        """Read all labels; malformed lines are logged.

        Args:
            images: the images; an ImageList lets messages name its lines.
            classes: number of classes.
            image_size: height and width of the network input.
            letterbox: keep the aspect and fill with grey, instead of stretching as Darknet does.
            rectangles: resize each image to its own shape inside `image_size`, sides multiples of this.
            augment: random changes for training; None for Darknet's exact preprocessing.
            cache: "ram" keeps decoded images in memory, as many as fit in CACHE_BYTES; worker processes that
                are forked share them, spawned ones get a copy each. "disk" stores them in a `DiskCache`.
        """
        self.images = tuple(images)
        self.classes = classes
        self.image_size = image_size
        self.letterbox = letterbox
        self.rectangles = rectangles
        self.augment = augment
        self.index: LabelIndex = read_index(self.images, classes)
        self.missing = len(images.problems) if isinstance(images, ImageList) else 0
        self._places = _places(images)
        self._decoded = _decode_all(self.images) if cache == "ram" else {}
        self._read = read_image
        if cache == "disk":
            kept = DiskCache()
            logger.info("decoded images are cached in %s (%.1f GB so far)", kept.folder, kept.size() / 1e9)
            self._read = kept.read
        for problem in self.index.problems:
            logger.warning("%s; line skipped", problem)

    @classmethod
    def from_split(
        cls,
        data: DataFile,
        split: str,
        image_size: tuple[int, int],
        *,
        letterbox: bool = False,
        rectangles: int | None = None,
        augment: Augment | None = None,
        cache: str | None = None,
        limit: int | None = None,
    ) -> "DetectionDataset":
        """The "train", "valid" or "test" images of a `.data` file; arguments as for the class.

        With `limit`, at most that many of them, evenly spread over the list.

        Raises:
            DatasetError: the list cannot be used, or none of its images has a label file.
        """
        images = data.image_list(split)
        if limit is not None:
            images = images.spread(limit)
        dataset = cls(
            images,
            data.classes,
            image_size,
            letterbox=letterbox,
            rectangles=rectangles,
            augment=augment,
            cache=cache,
        )
        if dataset.index.without_file == len(images):
            fact = f"none of its {len(images)} images has a label file"
            remedy = f"put them where they are expected, the first at {label_path(images.images[0])}"
            raise DatasetError(images.path, fact, remedy)
        return dataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey | int) -> Sample | str:
        """The sample of a key (a number: epoch and seed 0), or its problem: "file:line: fact"."""
        key = SampleKey(key) if isinstance(key, int) else key
        path, size = self.images[key.number], key.size or self.image_size
        try:
            image = self._image(key.number)
        except DatasetError as error:
            return f"{self._places[key.number]}{error}"
        labels, original = self.index.labels[key.number], (image.shape[0], image.shape[1])
        letterbox = self.letterbox or key.letterbox
        placement = place(*original, size, letterbox)
        if self.augment is not None:
            rng = np.random.default_rng([key.seed, key.epoch, key.number, *[key.copy] * (key.copy > 0)])
            draw = partial(self._partner, rng)
            composer = Composer(self.augment, size, letterbox, rng, draw)
            changed, labels = composer(Picture(image, labels))
            pixels = torch.from_numpy(changed).permute(2, 0, 1)
        elif self.rectangles is not None:
            pixels, placement = fit(image, self.image_size, self.rectangles)
            labels = place_labels(labels, original, (pixels.shape[1], pixels.shape[2]), placement)
        else:
            pixels = resize_exactly(image, size, letterbox)
            labels = place_labels(labels, original, size, placement)
        return Sample(key.number, pixels, labels, path, original, placement)

    def aspects(self) -> NDArray[np.float64]:
        """Height over width of each image (images,), 1 if unreadable; reads every image once."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            return np.array(list(pool.map(_aspect, self.images)))

    def _image(self, number: int) -> NDArray[np.uint8]:
        return self._decoded[number] if number in self._decoded else self._read(self.images[number])

    def _partner(self, rng: np.random.Generator) -> Picture | None:
        number = int(rng.integers(len(self.images)))
        try:
            return Picture(self._image(number), self.index.labels[number])
        except DatasetError:  # reported when the image is read for itself
            return None


def place_labels(
    labels: NDArray[np.float32], original: tuple[int, int], size: tuple[int, int], placement: Placement
) -> NDArray[np.float32]:
    """Convert labels (n, 5) from fractions of the original (h, w) to fractions of the input, not clipped."""
    scale = np.array([placement.scale_x * original[1] / size[1], placement.scale_y * original[0] / size[0]])
    offset = np.array([placement.offset_x / size[1], placement.offset_y / size[0]])
    centre = labels[:, 1:3] * scale + offset
    return np.concatenate((labels[:, :1], centre, labels[:, 3:5] * scale), axis=1).astype(np.float32)


def _places(images: ImageList | Sequence[Path]) -> list[str]:
    if not isinstance(images, ImageList):
        return [""] * len(images)
    return [f"{images.path}:{line}: " for line in images.lines]


def _decode_all(images: Sequence[Path]) -> dict[int, NDArray[np.uint8]]:
    """Decode images, by number, as many as fit in CACHE_BYTES; unusable ones are reported when read."""
    decoded: dict[int, NDArray[np.uint8]] = {}
    room = CACHE_BYTES
    # threads, since decoding releases the interpreter lock
    with ThreadPoolExecutor(max_workers=4) as pool:
        for number, image in enumerate(pool.map(_read_or_none, images)):
            if image is None:
                continue
            room -= image.nbytes
            if room < 0:
                fact = "%d of %d images are cached in memory, the others are decoded each time"
                logger.info(fact, number, len(images))
                pool.shutdown(cancel_futures=True)
                break
            decoded[number] = image
    return decoded


def _aspect(path: Path) -> float:
    # an eighth of the pixels is enough for the aspect, and quick
    try:
        small = decode(path, path.read_bytes(), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except (OSError, DatasetError):  # reported when the image is read
        return 1.0
    return 1.0 if small is None else small.shape[0] / small.shape[1]


def _read_or_none(path: Path) -> NDArray[np.uint8] | None:
    try:
        return read_image(path)
    except DatasetError:
        return None
