"""The training in TensorBoard: curves, gamma histograms and pictures with boxes.

Invariant: a resumed run continues the curves; what a killed one had written for later epochs is dropped.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ..errors import ToolkitError
from .history import EpochRecord

GROUPS = {
    "loss": ("loss", "box", "objectness", "classes", "distillation"),
    "accuracy": ("map50",),
    "sparsity": ("s", "free_share", "gamma_small", "gamma_relative_small", "gamma_50", "gamma_95"),
    "speed": ("learning_rate", "images_per_second", "seconds"),
}


class Board:
    """A writer of event files; a context manager that closes it."""

    def __init__(self, folder: Path, first_epoch: int = 1) -> None:
        """Write to `folder`, dropping what is there of `first_epoch` and later.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def epoch(self, record: EpochRecord, gammas: Tensor) -> None:
        """Write an epoch's numbers, and the histogram of (n,) |gamma| where there are any."""
        values = asdict(record)
        for group, names in GROUPS.items():
            for name in names:
                if values[name] == values[name]:
                    self._writer.add_scalar(f"{group}/{name}", values[name], record.epoch)
        if gammas.numel():
            self._writer.add_histogram("sparsity/gammas", gammas, record.epoch)
        self._writer.flush()

    def picture(self, name: str, picture: Tensor, epoch: int) -> None:
        """Write a picture (H, W, 3), uint8 RGB."""
        self._writer.add_image(name, picture, epoch, dataformats="HWC")
