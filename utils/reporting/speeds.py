"""Plot of latencies: for each runtime, milliseconds per image over the inputs.

Invariant: a plot is drawn from figures alone, so it can be redrawn at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import atomic_path
from .curves import COLOURS


@dataclass(frozen=True)
class Bar:
    """One network on one input.

    Attributes:
        model: its name.
        place: the input; names are unique within a panel.
        milliseconds: per image.
    """

    model: str
    place: str
    milliseconds: float


@dataclass(frozen=True)
class Panel:
    """One runtime with all its bars."""

    title: str
    bars: Sequence[Bar]


def plot_speeds(panels: Sequence[Panel], models: Sequence[str], path: Path) -> None:
    """Draw a row of bars for each panel into a PNG file.

    Args:
        panels: at least one, or nothing is drawn.
        models: in the order of the bars.
        path: where to.
    """
    from matplotlib.figure import Figure

    if not panels:
        return
    most = max(len({bar.place for bar in panel.bars}) for panel in panels)
    figure = Figure(
        figsize=(max(6.0, 1.5 + 0.25 * most * (len(models) + 1)), 3.2 * len(panels)), layout="constrained"
    )
    for axis, panel in zip(figure.subplots(len(panels), squeeze=False).flat, panels, strict=True):
        places = list(dict.fromkeys(bar.place for bar in panel.bars))
        width = 0.85 / len(models)
        for number, model in enumerate(models):
            bars = [bar for bar in panel.bars if bar.model == model]
            lefts = np.array([places.index(bar.place) for bar in bars]) + (number + 0.5) * width - 0.425
            heights = [bar.milliseconds for bar in bars]
            if bars:
                axis.bar(lefts, heights, width, label=model, color=COLOURS[number % len(COLOURS)])
        axis.set_ylim(0, 1.3 * max(bar.milliseconds for bar in panel.bars))  # room for the legend
        axis.set_xticks(range(len(places)), places, fontsize=7)
        axis.set_title(panel.title, fontsize=9)
        axis.set_ylabel("ms per image")
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
