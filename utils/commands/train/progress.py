"""How a training shows itself: the table of its options, a bar for each epoch, a line after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tqdm import tqdm

from ...darknet.model import Darknet
from ...data.images import read_image
from ...data.loader import Loader
from ...detection.draw import draw_detections
from ...errors import DatasetError
from ...training.board import Board
from ...training.history import EpochRecord
from ...training.loop import Observer
from ...training.processes import Processes
from ..detector import Detector, Thresholds
from ..tables import show

_PARTS = {"loss": "loss", "box": "box", "objectness": "obj", "classes": "cls"}
# pictures with boxes for each epoch in TensorBoard, and the least score of a box
_PICTURES, _SHOWN = 4, 0.25


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        """One more."""
        self._observers.append(observer)

    def epoch_started(self, epoch: int, done: int) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.epoch_started(epoch, done)

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.batch_done(number, means)

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.epoch_done(record, is_best, model, gammas)


class EpochBars:
    """Bars with the time left and images per second, and lines, on the first process's console."""

    def __init__(self, epochs: int, loader: Loader, processes: Processes) -> None:
        self._epochs, self._visible = epochs, processes.is_first
        self._size = loader.batch_size * processes.count
        self._batches = len(loader)
        self._bar: tqdm | None = None
        self._free = ""

    def epoch_started(self, epoch: int, done: int) -> None:
        """Open the epoch's bar."""
        if self._visible:
            self._bar = tqdm(
                total=self._batches * self._size,
                initial=done * self._size,
                desc=f"epoch {epoch}/{self._epochs}",
                unit="img",
                leave=False,
                disable=None,
            )

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Advance the bar and show the loss so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(means) + self._free, refresh=False)
            self._bar.update(number * self._size - self._bar.n)

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Replace the bar by a line."""
        del model, gammas  # what this observer has no use for
        if self._bar is not None:
            self._bar.close()
        if record.free_share == record.free_share:
            self._free = f"  free {record.free_share:.0%}"
        if self._visible:
            print(_line(record, self._epochs, is_best), flush=True)


class Pictures:
    """What TensorBoard gets of each epoch: numbers, gammas, and a few images with the boxes found."""

    def __init__(
        self, board: Board, images: Sequence[Path], names: tuple[str, ...], size: tuple[int, int]
    ) -> None:
        """Choose the first of `images`."""
        self._board, self._names, self._size = board, names, size
        self._images = images[:_PICTURES]

    def epoch_started(self, epoch: int, done: int) -> None:
        """Nothing yet."""

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Nothing yet."""

    def epoch_done(self, record: EpochRecord, is_best: bool, model: Darknet, gammas: Tensor) -> None:
        """Write all of it."""
        del is_best  # what this observer has no use for
        self._board.epoch(record, gammas)
        detector = Detector(model, self._size, Thresholds(_SHOWN), model.network.letterbox)
        for number, path in enumerate(self._images):
            try:
                image = read_image(path)
            except DatasetError:  # told already, by who loads the images
                continue
            found, _ = detector(image)
            picture = draw_detections(image, found, self._names)
            self._board.picture(f"boxes/{number}", torch.from_numpy(picture), record.epoch)


def print_options(options: Mapping[str, tuple[object, str]], title: str) -> None:
    """Print name, value and where the value comes from; a mapping is written out."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, (value, origin) in options.items():
        items = value.items() if isinstance(value, Mapping) else ()
        text = ", ".join(f"{key} {_short(item)}" for key, item in items) or _short(value)
        table.add_row(name, Text(text), Text(origin, style="dim"))
    show(title, table)


def _short(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_short(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _losses(means: Mapping[str, float]) -> str:
    parts = [f"{short} {means[name]:.3f}" for name, short in _PARTS.items()]
    if means["distillation"]:
        parts.append(f"distil {means['distillation']:.3f} ({means['farther']:.0%} farther than the teacher)")
    return "  ".join(parts)


def _line(record: EpochRecord, epochs: int, is_best: bool) -> str:
    parts = [f"epoch {record.epoch:{len(str(epochs))}}/{epochs}", _losses(vars(record))]
    if record.map50 == record.map50:
        parts.append(f"mAP@0.5 {record.map50:.4f}{'*' if is_best else ' '}")
    if record.s:
        parts.append(f"s {record.s:.2g}  gammas < 0.01: {record.gamma_small:.1%}")
        parts.append(f"free {record.free_share:.1%}")
    return "  ".join((*parts, f"{record.images_per_second:.1f} img/s  {record.seconds:.1f} s"))
