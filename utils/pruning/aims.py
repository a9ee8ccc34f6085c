"""A budget of milliseconds: predictions are corrected by what measured networks really take."""

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import PruningError
from .channels import UnitMask

# target, lower and upper bound as shares of the milliseconds asked for: re-measured, a network takes a per
# cent or two more or less
_AIM, _ENOUGH, _MOST = 0.945, 0.92, 0.97
# a result below this share of the limit is explained in its note
_LEAST = 0.9
_TRIES = 10


@dataclass(frozen=True)
class Try:
    """A mask whose network was measured.

    Attributes:
        predicted: milliseconds, from the table.
        taken: milliseconds, measured, as they count against the limit.
        within: whether the other limits are met.
    """

    keep: UnitMask
    predicted: float
    taken: float
    within: bool = True


@dataclass
class Aims:
    """Chooses the prediction to aim at next, so that the measurement meets the limit.

    The first guesses scale the prediction by the last measurement; once one network fits and another does
    not, the middle of the two is tried.

    Attributes:
        asked: the limit in milliseconds.
        name: of the option.
        low: the largest prediction that fitted.
        high: the smallest prediction that did not.
    """

    asked: float
    name: str
    low: float = 0.0
    high: float = math.inf

    def fits(self, found: Try) -> bool:
        """Whether it is within all limits, with a margin for the next measurement."""
        return found.within and found.taken <= _MOST * self.asked

    def reached(self, found: Try) -> bool:
        """Whether it fits and uses most of what is allowed."""
        return self.fits(found) and found.taken >= _ENOUGH * self.asked

    def next(self, found: Try) -> float:
        """The prediction to aim at after `found`."""
        if self.fits(found):
            self.low = max(self.low, found.predicted)
        else:
            self.high = min(self.high, found.predicted)
        aim = found.predicted * _AIM * self.asked / found.taken
        if self.low < aim < self.high:
            return aim
        return (self.low + self.high) / 2 if math.isfinite(self.high) else 1.1 * self.low

    def best(self, tries: Iterable[Try]) -> Try:
        """The slowest one that fits.

        Raises:
            PruningError: none fits.
        """
        found = list(tries)
        fitting = [each for each in found if self.fits(each)]
        fitting = fitting or [each for each in found if each.within and each.taken <= self.asked]
        if not fitting:
            times = [each.taken for each in found if each.within] or [each.taken for each in found]
            fact = f"{self.asked:.2f} ms not reached; the fastest network takes {min(times):.2f} ms"
            raise PruningError(self.name, fact, "raise the limit")
        return max(fitting, key=lambda each: each.taken)

    def note(self, best: Try, tries: Iterable[Try], where: str) -> str:
        """The measurement on a runtime as a sentence."""
        note = f"{best.taken:.2f} ms of at most {self.asked:.2f}, measured on {where}, "
        note += "interleaved with the unpruned network"
        if best.taken >= _LEAST * self.asked:
            return note
        slower = [each.taken for each in tries if not self.fits(each)]
        return f"{note}; the next larger network found takes {min(slower):.2f} ms" if slower else note


def approached(
    aims: Aims,
    keep: UnitMask,
    unpruned: Try,
    measure: Callable[[UnitMask], Try],
    propose: Callable[[float], UnitMask],
) -> tuple[Try, Collection[Try]]:
    """Measure, and correct the predictions, until a network is as fast as asked for.

    Args:
        aims: chooses predictions.
        keep: the first mask to try.
        unpruned: the network as it is, which exceeds the limit and is never the result.
        measure: a mask -> its network, measured.
        propose: milliseconds predicted -> the best mask within them.

    Returns:
        The best network that fits, and all that were measured.

    Raises:
        PruningError: none fits.
    """
    tried = {unpruned.keep.tobytes(): unpruned}
    for _ in range(_TRIES):
        found = tried.get(keep.tobytes()) or measure(keep)
        tried[keep.tobytes()] = found
        if aims.reached(found):
            break
        with suppress(PruningError):  # a prediction may leave no room where the measurement does
            keep = propose(aims.next(found))
    return aims.best(tried.values()), tried.values()
