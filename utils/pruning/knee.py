"""Where does a network break as more of it is removed, and where to look closer?

A curve maps shares of removed channels to mAP; share 0 is the unpruned network. Between two shares nothing is
known, so a curve is measured coarsely and then at `next_share` until there is none:

>>> curve = {0.0: 0.62, 0.8: 0.62, 0.9: 0.14}
>>> next_share(curve, tolerance=0.01, step=0.02)
0.84

Invariant: refining ends, with the largest good share and the first bad one above it at most one step apart,
and the steepest interval at most one step wide.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

Curve = Mapping[float, float]
_ROUNDING = 1e-9  # of a difference of two decimal numbers


@dataclass(frozen=True)
class Drop:
    """Two neighbouring shares and the mAP that is lost between them, 0..1."""

    before: float
    after: float
    lost: float


_SEEN = 5e-4


def has_knee(curve: Curve) -> bool:
    """Whether anything can be lost: the mAP of the unpruned network is a number above 0."""
    return math.isfinite(curve[0.0]) and curve[0.0] > 0


def knee(curve: Curve, tolerance: float) -> float:
    """The largest share with at most `tolerance` less mAP than the unpruned network; 0 where there is none.

    >>> knee({0.0: 0.62, 0.5: 0.60, 0.7: 0.615, 0.9: 0.14}, tolerance=0.01)
    0.7
    """
    if not has_knee(curve):
        return 0.0
    least = curve[0.0] - tolerance - _ROUNDING
    return max(share for share, value in curve.items() if value >= least)


def steepest(curve: Curve) -> Drop | None:
    """Where most is lost for each share removed; None where nothing is lost.

    It is the slope that counts: half of a steep interval is at least as steep, so a closer look stays inside.
    """
    shares = sorted(curve)
    drops = [Drop(low, high, curve[low] - curve[high]) for low, high in pairwise(shares)]
    worst = max(drops, key=lambda drop: drop.lost / (drop.after - drop.before), default=None)
    # The fall of a fraction of a thousandth is no cliff, and no table shows it.
    return worst if worst and worst.lost >= _SEEN else None


def next_share(curve: Curve, tolerance: float, step: float) -> float | None:
    """The share to measure next: inside the steepest interval, then between the knee and what lies above it.

    Args:
        curve: as far as it is known.
        tolerance: as for `knee`.
        step: no two shares need to be closer.

    Returns:
        A share that the curve has not; None where nothing is left to look at.
    """
    if not has_knee(curve):
        return None
    middle = None
    if (drop := steepest(curve)) is not None:
        middle = _middle(drop.before, drop.after, step)
    good = knee(curve, tolerance)
    bad = min((share for share in curve if share > good), default=None)
    if middle is None and bad is not None:
        middle = _middle(good, bad, step)
    return middle


def _middle(low: float, high: float, step: float) -> float | None:
    """A whole number of steps above `low`, so that shares stay short numbers; None for a narrow interval."""
    steps = int((high - low) / step + _ROUNDING)
    middle = round(low + max(1, steps // 2) * step, 6)
    return middle if steps >= 1 and low < middle < high - _ROUNDING else None
