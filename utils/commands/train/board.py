"""The training in TensorBoard: curves, gamma histograms and images with detections.

Invariant: a resumed run continues the curves; what a killed one had written for later epochs is dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ...darknet.model import Darknet
from ...data.images import read_image
from ...detection.draw import draw_detections
from ...errors import DatasetError, ToolkitError
from ...runtimes.detecting import Detector, Thresholds
from ...training.history import EpochRecord

GROUPS = {
    "loss": ("loss", "box", "objectness", "classes", "distillation"),
    "accuracy": ("map50",),
    "sparsity": ("s", "free_share", "gamma_small", "gamma_relative_small", "gamma_50", "gamma_95"),
    "speed": ("learning_rate", "images_per_second", "seconds"),
}
# images with detections per epoch, and the lowest score that is drawn
_PICTURES, _SHOWN = 4, 0.25


class Board:
    """An observer that writes event files; a context manager that closes them."""

    def __init__(
        self,
        folder: Path,
        first_epoch: int = 1,
        images: Sequence[Path] = (),
        names: tuple[str, ...] = (),
        image_size: tuple[int, int] = (416, 416),
    ) -> None:
        """Write to `folder`, dropping what is there of `first_epoch` and later.

        Args:
            folder: of the event files.
            first_epoch: that will be written, from 1.
            images: the first few of them are shown with detections.
            names: of the classes.
            image_size: (height, width) of the network's input.

        Raises:
            ToolkitError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ToolkitError(
                "--tensorboard", "not installed", "python -m pip install tensorboard"
            ) from error
        self._writer: Any = SummaryWriter(  # type: ignore[no-untyped-call]
            str(folder), purge_step=first_epoch if first_epoch > 1 else None
        )
        self._images, self._names, self._size = images[:_PICTURES], names, image_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def epoch_started(self, epoch: int, done: int) -> None:
        """Nothing to write yet."""

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Nothing to write yet."""

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Write the epoch's figures, the histogram of (n,) |gamma|, and the images."""
        del is_best  # the curves show it
        self.epoch(record, gammas)
        detector = Detector(model, self._size, Thresholds(_SHOWN), model.network.letterbox)
        for number, path in enumerate(self._images):
            try:
                image = read_image(path)
            except DatasetError:  # already reported by the loader
                continue
            found, _ = detector(image)
            picture = draw_detections(image, found, self._names)
            self.picture(f"boxes/{number}", torch.from_numpy(picture), record.epoch)

    def epoch(self, record: EpochRecord, gammas: Tensor) -> None:
        """Write an epoch's figures, and the histogram of (n,) |gamma| where there are any."""
        values = asdict(record)
        for group, names in GROUPS.items():
            for name in names:
                if values[name] == values[name]:
                    self._writer.add_scalar(f"{group}/{name}", values[name], record.epoch)
        if gammas.numel():
            self._writer.add_histogram("sparsity/gammas", gammas, record.epoch)
        self._writer.flush()

    def picture(self, name: str, picture: Tensor, epoch: int) -> None:
        """Write an image (H, W, 3), uint8 RGB."""
        self._writer.add_image(name, picture, epoch, dataformats="HWC")
