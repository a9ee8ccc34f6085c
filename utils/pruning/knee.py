"""The knee of a pruning curve, and the next share to measure.

A curve maps shares of removed channels to mAP; share 0 is the unpruned network. It is measured coarsely
first, then at `next_share` until that is None:

>>> curve = {0.0: 0.62, 0.8: 0.62, 0.9: 0.14}
>>> next_share(curve, tolerance=0.01, step=0.02)
0.84

Invariant: the refinement ends with the largest good share and the first bad one above it at most one step
apart, and the steepest interval at most one step wide.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

Curve = Mapping[float, float]
_ROUNDING = 1e-9  # of a difference of two decimal numbers


@dataclass(frozen=True)
class Drop:
    """Two neighbouring shares and the mAP lost between them, 0..1."""

    before: float
    after: float
    lost: float


_VISIBLE = 5e-4  # loss of mAP that a table shows


def has_knee(curve: Curve) -> bool:
    """Whether the mAP of the unpruned network is finite and above 0."""
    return math.isfinite(curve[0.0]) and curve[0.0] > 0


def knee(curve: Curve, tolerance: float) -> float:
    """The largest share with at most `tolerance` less mAP than the unpruned network; 0 if there is none.

    >>> knee({0.0: 0.62, 0.5: 0.60, 0.7: 0.615, 0.9: 0.14}, tolerance=0.01)
    0.7
    """
    if not has_knee(curve):
        return 0.0
    floor = curve[0.0] - tolerance - _ROUNDING
    return max(share for share, value in curve.items() if value >= floor)


def steepest(curve: Curve) -> Drop | None:
    """The interval with the largest loss per share removed; None if nothing is lost.

    Ranked by slope: one half of a steep interval is at least as steep, so the refinement stays inside.
    """
    shares = sorted(curve)
    drops = [Drop(low, high, curve[low] - curve[high]) for low, high in pairwise(shares)]
    worst = max(drops, key=lambda drop: drop.lost / (drop.after - drop.before), default=None)
    # A drop below what tables show is not a cliff.
    return worst if worst and worst.lost >= _VISIBLE else None


def next_share(curve: Curve, tolerance: float, step: float) -> float | None:
    """The next share to measure: inside the steepest interval, then between the knee and the share above it.

    Args:
        curve: as measured so far.
        tolerance: as for `knee`.
        step: smallest distance between two shares.

    Returns:
        A share that is not in the curve; None when the refinement is complete.
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
    """A whole number of steps above `low`, so that shares are short numbers; None for a narrow interval."""
    steps = int((high - low) / step + _ROUNDING)
    middle = round(low + max(1, steps // 2) * step, 6)
    return middle if steps >= 1 and low < middle < high - _ROUNDING else None
