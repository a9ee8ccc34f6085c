"""History of a training run, epoch by epoch: a CSV, a plot of its curves and one of its gammas.

Invariant: the files hold all epochs so far, also after a resume: they are rewritten from the records.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ToolkitError
from ..files import atomic_path, write_text
from ..pruning.sparsity import RELATIVE_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL_GAMMA = 0.01
FILES = ("history.csv", "history.png", "gammas.png")
# edges of the histogram of |gamma|, ten bins per power of ten; values outside count in the end bins
GAMMA_BINS = tuple(10 ** (exponent / 10) for exponent in range(-40, 11))
# curves of the ridge plot; more are unreadable
RIDGES = 12


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
    small_shares = {"gamma_small": small, "gamma_relative_small": relative_small}
    return {**small_shares, **columns, "gamma_counts": tuple(counts)}


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; losses are means over the batches of the epoch.

    Attributes:
        epoch: 1-based.
        loss: weighted sum of the parts, distillation included.
        box, objectness, classes, distillation: its parts.
        farther: share of the positives where the student is farther from the truth than the teacher.
        map50: mAP at IoU .5 on the validation images, Darknet style; NaN where there are none.
        gamma_small: share of the candidates' |gamma| below SMALL_GAMMA.
        gamma_05 .. gamma_95: quantiles of the candidates' |gamma|.
        learning_rate: at the epoch's last step.
        seconds: training and validation.
        gamma_relative_small: share of the candidates' |gamma| below RELATIVE_THRESHOLD of the largest.
        s: weight of the sparsity penalty in this epoch.
        free_share: share of the channels that can be removed without changing the masked outputs, see
            `pruning.dead_channels`; NaN without sparse training.
        images_per_second: of training, including loading, without validation.
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
        """This history with one more epoch."""
        return History((*self.records, record))

    def write(self, folder: Path) -> None:
        """Write the table, the first of FILES, into `folder`."""
        write_text(folder / FILES[0], self.to_csv())

    def draw(self, folder: Path) -> None:
        """Draw the pictures, the others of FILES, into `folder`."""
        _, picture, gammas = (folder / name for name in FILES)
        plot_history([asdict(record) for record in self.records], picture)
        if any(record.gamma_counts for record in self.records):
            plot_gammas([record.gamma_counts for record in self.records], GAMMA_BINS, gammas)

    def to_csv(self) -> str:
        """A header and one line per epoch, six significant digits."""
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
            ToolkitError: the checkpoint was written by another version of this program.
        """
        try:
            found = [{**record, "gamma_counts": tuple(record["gamma_counts"])} for record in records]
            return cls(tuple(EpochRecord(**record) for record in found))
        except (KeyError, TypeError):
            fact = "its history was written by another version of this program"
            raise ToolkitError("checkpoint", fact, "start a new run with --weights") from None


def plot_history(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot losses, mAP, rates and shares over the epochs into a PNG file.

    Args:
        records: the fields of each `EpochRecord`.
        path: of the PNG file.
    """
    figure = _figure(13, 7.2)
    losses, accuracy, rates, shares = figure.subplots(2, 2).flat
    epochs = [record["epoch"] for record in records]
    dots = "o" if len(epochs) == 1 else ""

    def curve(axis: "Axes", name: str, label: str, **style: Any) -> None:
        values = [record[name] for record in records]
        if any(value == value and value != 0 for value in values):
            axis.plot(epochs, values, label=label, marker=dots, **style)

    for name in ("loss", "box", "objectness", "classes", "distillation"):
        curve(losses, name, name)
    losses.margins(y=0.2)  # the legend hides less
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    curve(accuracy, "map50", "mAP@0.5", color="tab:green")
    best = max(records, key=lambda record: -1.0 if math.isnan(record["map50"]) else record["map50"])
    if best["map50"] == best["map50"]:
        note = f"{best['map50']:.1%} in epoch {best['epoch']}"
        accuracy.plot(best["epoch"], best["map50"], "*", color="tab:green", markersize=12, label=note)
    accuracy.set(title="validation mAP@0.5", xlabel="epoch", ylim=(0, 1))
    curve(rates, "learning_rate", "learning rate")
    curve(rates, "s", "s (weight of the sparsity penalty)", color="tab:red")
    rates.set(title="learning rate and sparsity penalty", xlabel="epoch", yscale="log")
    curve(shares, "free_share", "removable without changing the outputs", color="tab:green")
    curve(shares, "gamma_relative_small", "gamma < 0.01 of the largest", color="tab:red")
    curve(shares, "gamma_small", "gamma < 0.01", color="tab:orange", linestyle="--")
    curve(shares, "farther", "positives worse than the teacher", color="tab:purple")
    shares.set(title="share of the channels", xlabel="epoch", ylim=(0, 1))
    for axis in (losses, accuracy, rates, shares):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.has_data():
            axis.legend(framealpha=0.6)
        else:
            axis.text(0.5, 0.5, "no data in this run", ha="center", transform=axis.transAxes)
    _save(figure, path)


def plot_gammas(counts: Sequence[Sequence[int]], borders: Sequence[float], path: Path) -> None:
    """Plot the histograms of |gamma| over the epochs, as a heat map and as ridges, into a PNG file.

    Args:
        counts: for each epoch, the number of gammas in each bin.
        borders: edges of the bins, one more than there are bins.
        path: of the PNG file.
    """
    shares = np.array([np.array(row) / max(sum(row), 1) for row in counts])
    figure = _figure(13, 4.6)
    heat, ridges = figure.subplots(1, 2)
    picture = heat.pcolormesh(
        np.arange(len(shares) + 1) + 0.5,
        borders,
        shares.T,
        cmap="magma",
        vmin=0,
        vmax=np.quantile(shares, 0.995),
    )
    heat.xaxis.get_major_locator().set_params(integer=True)
    heat.set(
        title="distribution of |gamma| over the training", xlabel="epoch", ylabel="|gamma|", yscale="log"
    )
    figure.colorbar(picture, ax=heat, label="share of the channels per bin")
    centres = np.sqrt(np.array(borders[1:]) * np.array(borders[:-1]))
    chosen = np.unique(np.linspace(0, len(shares) - 1, min(RIDGES, len(shares))).round().astype(int))
    height = shares[chosen, 1:-1].max() or 1.0  # the end bins collect all values outside
    for place, epoch in enumerate(chosen):
        base = float(len(chosen) - 1 - place)
        curve = base + 1.6 * np.minimum(shares[epoch] / height, 1.0)
        ridges.fill_between(centres, base, curve, color="tab:blue", alpha=0.75, zorder=place)
        ridges.plot(centres, curve, color="white", linewidth=1, zorder=place)
    ridges.set_yticks(range(len(chosen)), [str(epoch + 1) for epoch in chosen[::-1]])
    ridges.set(title="distribution of |gamma| per epoch", xlabel="|gamma|", ylabel="epoch", xscale="log")
    _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
