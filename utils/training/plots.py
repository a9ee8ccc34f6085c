"""Pictures of a training: its curves, and how the gammas were squeezed.

Invariant: pictures are drawn from the history alone, so they can be drawn again at any time.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# curves of the ridge picture; more could not be told apart
RIDGES = 12


def plot_history(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw losses, mAP, rates and shares over the epochs into a PNG file.

    Args:
        records: the fields of each `EpochRecord`.
        path: where to.
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
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    curve(accuracy, "map50", "mAP@0.5", color="tab:green")
    best = max(records, key=lambda record: -1.0 if math.isnan(record["map50"]) else record["map50"])
    if best["map50"] == best["map50"]:
        note = f"{best['map50']:.1%} in epoch {best['epoch']}"
        accuracy.plot(best["epoch"], best["map50"], "*", color="tab:green", markersize=12, label=note)
    accuracy.set(title="validation mAP@0.5", xlabel="epoch", ylim=(0, 1))
    curve(rates, "learning_rate", "learning rate")
    curve(rates, "s", "s, weight of the sparsity penalty", color="tab:red")
    rates.set(title="rates", xlabel="epoch", yscale="log")
    curve(shares, "free_share", "could go with no change of the outputs", color="tab:green")
    curve(shares, "gamma_relative_small", "gamma < 0.01 of the largest", color="tab:red")
    curve(shares, "gamma_small", "gamma < 0.01", color="tab:orange", linestyle="--")
    curve(shares, "farther", "positives farther from the truth than the teacher", color="tab:purple")
    shares.set(title="shares of the channels", xlabel="epoch", ylim=(0, 1))
    for axis in (losses, accuracy, rates, shares):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.has_data():
            axis.legend()
        else:
            axis.text(0.5, 0.5, "nothing to show in this run", ha="center", transform=axis.transAxes)
    _save(figure, path)


def plot_gammas(counts: Sequence[Sequence[int]], borders: Sequence[float], path: Path) -> None:
    """Draw the histograms of |gamma| over the epochs, as a heat picture and as ridges, into a PNG file.

    Args:
        counts: for each epoch the number of gammas in each bin.
        borders: of the bins, one more than there are bins.
        path: where to.
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
    heat.set(title="the squeeze: |gamma| of the candidates", xlabel="epoch", ylabel="|gamma|", yscale="log")
    figure.colorbar(picture, ax=heat, label="share of the channels in the bin")
    centres = np.sqrt(np.array(borders[1:]) * np.array(borders[:-1]))
    chosen = np.unique(np.linspace(0, len(shares) - 1, min(RIDGES, len(shares))).round().astype(int))
    height = shares[chosen, 1:-1].max() or 1.0  # what is outside the bins would dwarf the rest
    for place, epoch in enumerate(chosen):
        base = float(len(chosen) - 1 - place)
        curve = base + 1.6 * np.minimum(shares[epoch] / height, 1.0)
        ridges.fill_between(centres, base, curve, color="tab:blue", alpha=0.75, zorder=place)
        ridges.plot(centres, curve, color="white", linewidth=1, zorder=place)
    ridges.set_yticks(range(len(chosen)), [str(epoch + 1) for epoch in chosen[::-1]])
    ridges.set(title="the same as ridges", xlabel="|gamma|", ylabel="epoch", xscale="log")
    _save(figure, path)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
