"""What a training run did, epoch by epoch: a CSV for tables, a PNG for eyes.

Invariant: both files hold all epochs so far, also after a resume: they are written anew from the records.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from utils.files import atomic_path, write_text

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL_GAMMA = 0.01
FILES = ("history.csv", "history.png")


def gamma_statistics(gammas: Tensor) -> dict[str, float]:
    """The gamma columns of `EpochRecord` for (n,) gammas; all 0 where there are none.

    >>> gamma_statistics(torch.tensor([0.0, -0.005, 1.0, 1.0]))["gamma_small"]
    0.5
    """
    sizes = gammas.detach().abs().double().cpu() if gammas.numel() else torch.zeros(1, dtype=torch.float64)
    quantiles = sizes.quantile(sizes.new_tensor(QUANTILES)).tolist()
    columns = {
        f"gamma_{round(100 * share):02d}": value for share, value in zip(QUANTILES, quantiles, strict=True)
    }
    small = (sizes < SMALL_GAMMA).double().mean().item() if gammas.numel() else 0.0
    return {"gamma_small": small, **columns}


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; losses are means over the epoch's batches.

    Attributes:
        epoch: 1-based.
        loss: weighted sum of the parts, distillation included.
        box, objectness, classes, distillation: its parts.
        farther: share of positives where the student is farther from the truth than the teacher.
        map50: mAP at IoU .5 on the validation images, Darknet style; NaN where there are none.
        gamma_small: share of the candidates' |gamma| below SMALL_GAMMA.
        gamma_05 .. gamma_95: quantiles of the candidates' |gamma|.
        learning_rate: at the epoch's last step.
        seconds: training and validation.
    """

    epoch: int
    loss: float
    box: float
    objectness: float
    classes: float
    distillation: float
    farther: float
    map50: float
    gamma_small: float
    gamma_05: float
    gamma_25: float
    gamma_50: float
    gamma_75: float
    gamma_95: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class History:
    """All epochs of a run."""

    records: tuple[EpochRecord, ...] = ()

    @property
    def best(self) -> EpochRecord | None:
        """The earliest epoch with the highest mAP; the last epoch where nothing was validated."""
        judged = [record for record in self.records if record.map50 == record.map50]
        return max(judged, key=lambda record: record.map50) if judged else (self.records or (None,))[-1]

    def extended(self, record: EpochRecord) -> "History":
        """This history and one more epoch."""
        return History((*self.records, record))

    def write(self, folder: Path) -> None:
        """Write FILES into `folder`."""
        table, picture = (folder / name for name in FILES)
        write_text(table, self.to_csv())
        plot_history(self.records, picture)

    def to_csv(self) -> str:
        """A header and one line for each epoch, six significant digits."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(column.name for column in fields(EpochRecord))
        writer.writerows([f"{value:.6g}" for value in asdict(record).values()] for record in self.records)
        return lines.getvalue()

    def to_list(self) -> list[dict[str, float]]:
        """Plain numbers, for a checkpoint."""
        return [asdict(record) for record in self.records]

    @classmethod
    def from_list(cls, records: Sequence[dict[str, float]]) -> "History":
        """Inverse of `to_list`."""
        return cls(tuple(EpochRecord(**record) for record in records))  # type: ignore[arg-type]


def plot_history(records: Sequence[EpochRecord], path: Path) -> None:
    """Draw losses, mAP and gamma quantiles over the epochs into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    losses, accuracy, gammas = figure.subplots(1, 3)
    epochs = [record.epoch for record in records]
    for name in ("loss", "box", "objectness", "classes"):
        losses.plot(epochs, [getattr(record, name) for record in records], label=name)
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    losses.legend()
    accuracy.plot(epochs, [record.map50 for record in records], color="tab:green")
    accuracy.set(title="validation mAP@0.5", xlabel="epoch", ylim=(0, 1))
    for low, high, shade in (("gamma_05", "gamma_95", 0.2), ("gamma_25", "gamma_75", 0.4)):
        lower, upper = ([getattr(record, name) for record in records] for name in (low, high))
        gammas.fill_between(
            epochs, lower, upper, color="tab:blue", alpha=shade, label=f"{low[-2:]}-{high[-2:]} %"
        )
    gammas.plot(epochs, [record.gamma_50 for record in records], color="tab:blue", label="median")
    gammas.plot(
        epochs, [record.gamma_small for record in records], color="tab:red", label=f"share < {SMALL_GAMMA}"
    )
    gammas.set(title="|gamma| of the candidates", xlabel="epoch", ylim=(0, None))
    gammas.legend()
    for axis in (losses, accuracy, gammas):
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
