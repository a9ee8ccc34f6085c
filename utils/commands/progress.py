"""How a training shows itself: the table of its options, a bar for each epoch, a line after it."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from utils.commands.tables import show
from utils.training.history import EpochRecord

_PARTS = {"loss": "loss", "box": "box", "objectness": "obj", "classes": "cls"}


class EpochBars:
    """Bars and lines on the console; with `visible` false (another process shows them) nothing."""

    def __init__(self, epochs: int, batches: int, visible: bool = True) -> None:
        self._epochs, self._batches, self._visible = epochs, batches, visible
        self._bar: tqdm | None = None

    def epoch_started(self, epoch: int) -> None:
        """Open the epoch's bar."""
        if self._visible:
            self._bar = tqdm(
                total=self._batches,
                desc=f"epoch {epoch}/{self._epochs}",
                unit="batch",
                leave=False,
                disable=None,
            )

    def batch_done(self, number: int, means: Mapping[str, float]) -> None:
        """Advance the bar and show the loss so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(_losses(means), refresh=False)
            self._bar.update(number - self._bar.n)

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Replace the bar by a line."""
        if self._bar is not None:
            self._bar.close()
        if self._visible:
            print(_line(record, self._epochs, is_best), flush=True)


def print_options(options: Mapping[str, tuple[object, str]], title: str) -> None:
    """Print name, value and where the value comes from; a mapping is written out."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, (value, origin) in options.items():
        items = value.items() if isinstance(value, Mapping) else ()
        text = ", ".join(f"{key} {item}" for key, item in items) or str(value)
        table.add_row(name, Text(text), Text(origin, style="dim"))
    show(title, table)


def _losses(means: Mapping[str, float]) -> str:
    parts = [f"{short} {means[name]:.3f}" for name, short in _PARTS.items()]
    if means["distillation"]:
        parts.append(f"distil {means['distillation']:.3f} ({means['farther']:.0%} farther than the teacher)")
    return "  ".join(parts)


def _line(record: EpochRecord, epochs: int, is_best: bool) -> str:
    number = f"epoch {record.epoch:{len(str(epochs))}}/{epochs}"
    accuracy = "" if record.map50 != record.map50 else f"mAP@0.5 {record.map50:.4f}{'*' if is_best else ' '}"
    gammas = f"gammas < 0.01: {record.gamma_small:.1%}"
    return "  ".join((number, _losses(vars(record)), accuracy, gammas, f"{record.seconds:.1f} s"))
