"""Plots of ladder.py and sensitivity.py: mAP over size for each score; a heat map of groups by ratio.

Invariant: a plot is drawn from figures alone, so it can be redrawn at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, distinguishable with any colour vision
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_INK, _FAINT = "#333333", "#8a8a8a"
# white letters have more contrast than _INK on colours of less luminance than this
_DARK = 0.245
_FEW = 8  # columns of a heat map that may be wide
_LEAST_HEIGHT = 3.4  # inches, for what is written along its sides


@dataclass(frozen=True)
class Point:
    """A network on a curve; mAP as fractions.

    Attributes:
        share: of the channels, removed.
        as_cut, recalibrated: mAP; the latter None where it was not measured.
        parameters, macs: what it costs.
        milliseconds: its latency; None where it was not measured.
    """

    share: float
    as_cut: float
    recalibrated: float | None
    parameters: int
    macs: int
    milliseconds: float | None

    @property
    def best(self) -> float:
        """The better mAP."""
        return self.as_cut if self.recalibrated is None else max(self.as_cut, self.recalibrated)


@dataclass(frozen=True)
class _Panel:
    label: str
    value: Callable[[Point], float]
    logarithmic: bool = False


def plot_ladders(
    unpruned: Point,
    curves: Mapping[str, Sequence[Point]],
    knees: Mapping[str, float],
    tolerance: float,
    path: Path,
    *,
    title: str,
    runtime: str,
) -> None:
    """Draw mAP over share, parameters, multiply-adds and latency into a PNG file.

    Args:
        unpruned: the start of all curves.
        curves: points by share, for each score.
        knees: share of the knee for each score; 0 for none.
        tolerance: mAP that may be lost, drawn as a band.
        path: of the file.
        title: above all panels.
        runtime: that latency was measured on.
    """
    # With knees far below the unpruned network, a linear axis would squeeze what matters.
    kept = [
        point.parameters
        for score, points in curves.items()
        for point in points
        if point.share == knees[score]
    ]
    far = min(kept, default=unpruned.parameters) < unpruned.parameters / 4
    (size, many), (unit, most) = _unit(unpruned.parameters), _unit(unpruned.macs)
    panels = [
        _Panel("share of the channels removed", lambda point: point.share),
        _Panel(f"parameters, {many}", lambda point: point.parameters / size, logarithmic=far),
        _Panel(f"multiply-adds, {most}", lambda point: point.macs / unit),
    ]
    if unpruned.milliseconds is not None:
        panels.append(_Panel(f"latency, ms, {runtime}", lambda point: point.milliseconds or np.nan))
    figure = _figure(11, 7.8) if len(panels) == 4 else _figure(15, 4.6)
    axes = figure.subplots(*((2, 2) if len(panels) == 4 else (1, 3)), sharey=True).flat
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, unpruned, curves, knees, tolerance)
    figure.suptitle(title, color=_INK, fontsize=11)
    figure.supylabel("mAP@0.5", color=_INK, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(9, len(labels)), frameon=False)
    _save(figure, path)


def _unit(count: int) -> tuple[float, str]:
    """The unit that keeps numbers up to `count` short.

    >>> _unit(8_674_496)
    (1000000.0, 'millions')
    """
    units = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
    return next((unit for unit in units if count >= unit[0]), (1.0, "all"))


def _draw_panel(
    axis: "Axes",
    panel: _Panel,
    unpruned: Point,
    curves: Mapping[str, Sequence[Point]],
    knees: Mapping[str, float],
    tolerance: float,
) -> None:
    top = 100 * unpruned.as_cut
    axis.axhspan(top - 100 * tolerance, top, color="#000000", alpha=0.07, linewidth=0)
    for (score, points), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        whole = (unpruned, *points)
        x = [panel.value(point) for point in whole]
        measured = any(point.recalibrated is not None for point in whole)
        if measured:
            # the dotted line is behind the curve of the better figure
            axis.plot(x, [100 * point.as_cut for point in whole], ":", color=colour, linewidth=1.3, alpha=0.8)
        best = [100 * unpruned.as_cut, *(100 * point.best for point in points)]
        axis.plot(x, best, "-o", color=colour, linewidth=2, markersize=3.5, label=score)
        _draw_knee(axis, panel, points, knees[score], colour)
    axis.plot(panel.value(unpruned), top, "D", color=_INK, markersize=7, label="unpruned", zorder=5)
    if any(knees.values()):
        axis.plot([], [], "*", color=_FAINT, markersize=13, label="knee")
    if unpruned.recalibrated is not None:
        axis.plot([], [], ":", color=_FAINT, linewidth=1.3, label="as cut, not recalibrated")
    if panel.logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda *_: "")
    shown = [100 * point.best for points in curves.values() for point in points]
    highest = float(np.nanmax([top, 10.0, *shown]))
    # room for the figure above a star, and for a star at 0
    axis.set(xlabel=panel.label, ylim=(-0.05 * highest, 1.12 * highest))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    _plain(axis)


def _draw_knee(axis: "Axes", panel: _Panel, points: Sequence[Point], share: float, colour: str) -> None:
    for point in points:
        if point.share == share:
            place = (panel.value(point), 100 * point.best)
            axis.plot(*place, "*", color=colour, markersize=17, markeredgecolor="white", zorder=6)
            axis.annotate(
                f"{place[0]:.3g}", place, (0, 11), textcoords="offset points", ha="center",
                color=colour, fontsize=9, fontweight="bold",
            )  # fmt: skip


def plot_sensitivity(
    drops: np.ndarray, labels: Sequence[str], ratios: Sequence[float], path: Path, *, title: str
) -> None:
    """Draw a heat map of the mAP that cutting one group alone costs into a PNG file.

    Args:
        drops: (groups, ratios) mAP lost, fractions; negative for a gain, NaN where not measured.
        labels: of the groups, from the top.
        ratios: shares of a group that were removed.
        path: of the file.
        title: above it.
    """
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    points = 100 * drops
    worst = max(5.0, float(np.nanmax(points, initial=0.0)))
    colours = ["#5aa6d6", "#ffffff", "#fde3b0", "#f4a261", "#d1495b", "#5f0f40"]
    # white at nothing lost; gains are noise of the sample, and get a hue of their own
    places = [0.0, 0.5, 0.56, 0.66, 0.83, 1.0]
    colour_map = LinearSegmentedColormap.from_list("drops", list(zip(places, colours, strict=True)))
    cell = 1.15 if len(ratios) <= _FEW else 0.65  # inches
    width = 2.6 + cell * len(ratios) + 0.075 * max(map(len, labels))
    height = max(_LEAST_HEIGHT, 1.6 + 0.34 * len(labels))
    figure = _figure(max(width, 0.5 + 0.08 * len(title)), height)
    axis = figure.subplots()
    norm = TwoSlopeNorm(0, -worst / 2, worst)
    picture = axis.pcolormesh(points, cmap=colour_map, norm=norm, edgecolors="#ececec", linewidth=1)
    for (row, column), value in np.ndenumerate(points):
        if value == value:
            ink = "white" if _luminance(colour_map(norm(value))) < _DARK else _INK
            axis.text(
                column + 0.5, row + 0.5, f"{value:z.1f}", ha="center", va="center", color=ink, fontsize=8.5
            )
    axis.set_xticks(np.arange(len(ratios)) + 0.5, [f"{ratio:g}" for ratio in ratios])
    axis.set_yticks(np.arange(len(labels)) + 0.5, labels)
    axis.invert_yaxis()
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set(xlabel="share of the group removed", ylabel="sections of the group (channels)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axis, label="points of mAP@0.5 lost", aspect=height / 0.2)
    bar.ax.set_ylim(min(0.0, float(np.nanmin(points, initial=0.0))), worst)
    bar.ax.set_yscale("linear")
    bar.outline.set_visible(False)
    figure.suptitle(title, color=_INK, fontsize=10)
    _save(figure, path)


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of red, green and blue in 0..1, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _plain(axis: "Axes") -> None:
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_FAINT)
    axis.tick_params(which="both", colors=_INK, length=0)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
