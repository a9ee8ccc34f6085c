"""What a training run did, epoch by epoch: a CSV for tables, pictures in `plots`.

Invariant: both files hold all epochs so far, also after a resume: they are written anew from the records.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ToolkitError
from ..files import write_text
from ..pruning.sparsity import RELATIVE_THRESHOLD
from .plots import plot_gammas, plot_history

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL_GAMMA = 0.01
FILES = ("history.csv", "history.png", "gammas.png")
# borders of the histogram of |gamma|, ten bins for each power of ten; what is outside counts at the ends
GAMMA_BINS = tuple(10 ** (exponent / 10) for exponent in range(-40, 11))


def gamma_statistics(gammas: Tensor) -> dict[str, Any]:
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
    relative = sizes < RELATIVE_THRESHOLD * sizes.max()
    relative_small = relative.double().mean().item() if gammas.numel() else 0.0
    bins = torch.bucketize(sizes.clamp(GAMMA_BINS[0], GAMMA_BINS[-1]), sizes.new_tensor(GAMMA_BINS[1:-1]))
    counts = torch.bincount(bins, minlength=len(GAMMA_BINS) - 1).tolist() if gammas.numel() else []
    squeezed = {"gamma_small": small, "gamma_relative_small": relative_small}
    return {**squeezed, **columns, "gamma_counts": tuple(counts)}


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
        gamma_relative_small: share of the candidates' |gamma| below RELATIVE_THRESHOLD of the largest.
        s: weight of the penalty in this epoch.
        free_share: share of the channels that could be removed with no change of the masked outputs, see
            `pruning.free`; NaN where it was not asked for.
        images_per_second: of training alone, loading included.
        gamma_counts: number of candidates in each bin of GAMMA_BINS; empty without candidates.
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
    gamma_relative_small: float = 0.0
    s: float = 0.0
    free_share: float = math.nan
    images_per_second: float = math.nan
    gamma_counts: tuple[int, ...] = ()


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
        table, picture, gammas = (folder / name for name in FILES)
        write_text(table, self.to_csv())
        plot_history([asdict(record) for record in self.records], picture)
        if any(record.gamma_counts for record in self.records):
            plot_gammas([record.gamma_counts for record in self.records], GAMMA_BINS, gammas)

    def to_csv(self) -> str:
        """A header and one line for each epoch, six significant digits."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        names = [column.name for column in fields(EpochRecord) if column.name != "gamma_counts"]
        writer.writerow(names)
        writer.writerows([f"{getattr(record, name):.6g}" for name in names] for record in self.records)
        return lines.getvalue()

    def to_list(self) -> list[dict[str, Any]]:
        """Plain numbers, for a checkpoint."""
        return [asdict(record) for record in self.records]

    @classmethod
    def from_list(cls, records: Sequence[dict[str, Any]]) -> "History":
        """Inverse of `to_list`.

        Raises:
            ToolkitError: they are of another version of this program.
        """
        try:
            found = [{**record, "gamma_counts": tuple(record["gamma_counts"])} for record in records]
            return cls(tuple(EpochRecord(**record) for record in found))
        except (KeyError, TypeError):
            fact = "its history is of another version of this program"
            raise ToolkitError("checkpoint", fact, "start anew with --weights") from None
