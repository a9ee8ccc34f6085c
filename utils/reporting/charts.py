"""Geometry of the charts of a report, in fractions of their width and height; the template draws them.

Widths are fractions, so that a chart fits large and small screens with text of the same size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def digits(value: float) -> str:
    """Three digits, more only before the point.

    >>> digits(0.8123), digits(33.79), digits(1065.6)
    ('0.81', '33.8', '1066')
    """
    places = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{places}f}"


def short(count: float) -> str:
    """A count in thousands, millions or thousand millions.

    >>> short(8674496), short(2.72e9), short(416)
    ('8.67 M', '2.72 G', '416')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{digits(count / size)} {unit}"
    return f"{count:.0f}"


def percent(fraction: float) -> str:
    """A fraction as per cent.

    >>> percent(0.3812)
    '38.1 %'
    """
    return f"{100 * fraction:.1f} %"


def points(change: float) -> str:
    """The change of a fraction in percentage points, with a real minus sign.

    >>> points(-0.0123), points(0.0), points(0.5)
    ('−1.2', '±0.0', '+50.0')
    """
    if round(100 * abs(change), 1) == 0:
        return "±0.0"
    return f"{100 * change:+.1f}".replace("-", "−")


def small(value: float) -> str:
    """A difference or threshold, with its significant digits.

    >>> small(3.2e-15), small(0.0134), small(0.0)
    ('3.2e-15', '0.0134', '0')
    """
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


_BINS = 56
# Scores above this multiple of the 99th percentile are outliers, which would squeeze the rest.
_OUTLIERS = 1.6
# Side of a badge with its margin, as a fraction of the narrowest picture of a page.
_BADGE = 0.075


@dataclass(frozen=True)
class Strand:
    """The mark of a group in one row: a vertical line, and a dot where the row is a member.

    Attributes:
        lane: the column, 0 is the leftmost.
        above, below: whether the line continues to the row above, to the row below.
        member: whether the row belongs to the group.
        group: the group's number.
    """

    lane: int
    above: bool
    below: bool
    member: bool
    group: int


def strands(groups: Sequence[int | None]) -> tuple[tuple[Strand, ...], ...]:
    """Connect rows of the same group, as few lanes as possible side by side.

    Args:
        groups: for each row the number of its group, None where it has none.

    Returns:
        For each row its marks, from the left; groups of a single row have none.

    >>> [len(row) for row in strands([1, None, 1, 2])]
    [1, 1, 1, 0]
    """
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            rows.setdefault(group, []).append(row)
    free: list[int] = []  # lane -> the row that its last group ends in
    found: list[list[Strand]] = [[] for _ in groups]
    for group, members in rows.items():
        if len(members) < 2:
            continue
        first, last = members[0], members[-1]
        lane = next((lane for lane, end in enumerate(free) if end < first), len(free))
        free[lane : lane + 1] = [last]
        for row in range(first, last + 1):
            found[row].append(Strand(lane, row > first, row < last, row in members, group))
    return tuple(tuple(sorted(row, key=lambda strand: strand.lane)) for row in found)


@dataclass(frozen=True)
class Bin:
    """A bar of the histogram: `count` channels with scores from `low` to `high`, of which `kept` are kept."""

    low: float
    high: float
    count: int
    kept: int
    height: float
    kept_height: float


@dataclass(frozen=True)
class Histogram:
    """Counts of scores on a logarithmic scale.

    Attributes:
        bins: of equal width, from the left edge of the chart to the right one.
        ticks: scores to mark: position from the left, text.
        levels: counts to mark: height, text.
        threshold: its position from the left; None without one.
        beyond: number of scores above the last bin's `high`; it counts them too.
    """

    bins: tuple[Bin, ...]
    ticks: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]
    threshold: float | None
    beyond: int


def histogram(
    scores: NDArray[np.floating], kept: NDArray[np.bool_] | None = None, threshold: float | None = None
) -> Histogram | None:
    """Sort scores into bins.

    Args:
        scores: (channels,) at least 0; values that are not finite are left out.
        kept: (channels,) which of them are kept; None: all.
        threshold: channels with a lower score are removed.

    Returns:
        None where there is no finite score.
    """
    finite = np.isfinite(scores)
    kept = np.ones(len(scores), dtype=np.bool_) if kept is None else kept
    scores, kept = np.asarray(scores, dtype=np.float64)[finite], kept[finite]
    if not len(scores):
        return None
    edges = _edges(scores, threshold)
    end = float(edges[-1])
    numbers = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(numbers, minlength=len(edges) - 1)
    staying = np.bincount(numbers[kept], minlength=len(edges) - 1)
    top = _log(counts.max()) * 1.04
    return Histogram(
        bins=tuple(
            Bin(float(edges[i]), float(edges[i + 1]), n, k, _log(n) / top, _log(k) / top)
            for i, (n, k) in enumerate(zip(counts.tolist(), staying.tolist(), strict=True))
        ),
        ticks=tuple((value / end, f"{value:g}") for value in _round_values(end)),
        levels=tuple(
            (_log(10**power) / top, f"{10**power:,}") for power in range(8) if _log(10**power) <= top
        ),
        threshold=None if threshold is None else threshold / end,
        beyond=int((scores > end).sum()),
    )


def _edges(scores: NDArray[np.floating], threshold: float | None) -> NDArray[np.floating]:
    """(bins + 1,) from 0 on; the threshold is one of them unless it is next to 0."""
    largest, usual = float(scores.max()), float(np.percentile(scores, 99))
    end = min(largest, _OUTLIERS * usual) if usual > 0 else largest
    end = max(end, 1.2 * (threshold or 0)) or 1.0
    width = end / _BINS
    left = round((threshold or 0) / width)
    if threshold and left >= 2:
        width = threshold / left
    return width * np.arange(int(np.ceil(end / width - 1e-9)) + 1)


def _log(count: float) -> float:
    """Logarithm for bar heights: 0 for 0, and 1 is visible."""
    return float(np.log10(1 + count))


def _round_values(end: float) -> tuple[float, ...]:
    """0 and at most six multiples of 1, 2 or 5 times a power of ten, up to `end`.

    >>> _round_values(1.3)
    (0.0, 0.5, 1.0)
    """
    power = float(10.0 ** np.floor(np.log10(end)))
    step = next(step for step in (power / 5, power / 2, power, 2 * power) if end / step <= 5)
    return tuple(round(step * number, 12) for number in range(int(end / step) + 1))


def badge_centers(points: Sequence[tuple[float, float]], aspect: float) -> tuple[tuple[float, float], ...]:
    """Move the number badges of boxes apart, so that each is readable.

    Args:
        points: preferred centre (x, y) of each badge, fractions of the picture.
        aspect: width of the picture over its height.

    Returns:
        Centres inside the picture; no two badges overlap as long as there is room.
    """
    width, height = _BADGE, min(1.0, _BADGE * aspect)
    columns, rows = int(1 / width), int(1 / height)
    grid = [((c + 0.5) * width, (r + 0.5) * height) for r in range(rows) for c in range(columns)]
    placed: list[tuple[float, float]] = []
    for x, y in points:
        x = min(max(x, width / 2), 1 - width / 2)
        y = min(max(y, height / 2), 1 - height / 2)
        near = sorted(grid, key=lambda spot: (spot[0] - x) ** 2 + ((spot[1] - y) / aspect) ** 2)
        clear = (s for s in [(x, y), *near] if not any(_touch(s, p, width, height) for p in placed))
        placed.append(next(clear, (x, y)))
    return tuple(placed)


def _touch(first: tuple[float, float], second: tuple[float, float], width: float, height: float) -> bool:
    near = 1 - 1e-9  # neighbours on the grid are apart
    return abs(first[0] - second[0]) < width * near and abs(first[1] - second[1]) < height * near
