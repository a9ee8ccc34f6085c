"""Milliseconds of pruned networks: predicted from a latency table, measured, and fitted to one another."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from ...darknet.model import Darknet
from ...errors import PruningError
from ...pruning.channels import UnitMask
from ...pruning.conv_classes import Convolution
from ..latency.network import calibrate
from .job import Job
from .stages import Timing, timing

# turns with the unpruned network: to see where one is, and to be sure
ROUNDS, LONG = 30, 90
# what is aimed at, what is enough and what is too much, as shares of the milliseconds asked for: measured
# again, a network takes a per cent or two more or less
_AIM, _ENOUGH, _MOST = 0.945, 0.92, 0.97
# below this, what was left over is told as a warning
_LEAST = 0.9


@dataclass(frozen=True)
class Clock:
    """How sums of a job's latency table become milliseconds of whole networks.

    Attributes:
        full: milliseconds of the unpruned network, measured.
        scale: from a sum over convolutions to a whole network.
    """

    job: Job
    full: float
    scale: Callable[[float], float]

    @classmethod
    def of(cls, job: Job) -> "Clock":
        """Measure the job's network."""
        calibration, latency = calibrate(job.table, job.model.network, job.runtime, job.image_size)
        return cls(job, latency.p50, calibration)

    def layer(self, name: str, inputs: int, outputs: int) -> float:
        """By the table; 0 for what is no convolution."""
        found = self._convolutions.get(name)
        return 0.0 if found is None else self.job.table.milliseconds(found.conv, inputs, outputs)

    def predicted(self, keep: UnitMask) -> float:
        """Of the network that a mask leaves."""
        layers = self.job.subject.graph.layers.items()
        widths = ((name, int(keep[x.inputs].sum()), int(keep[x.outputs].sum())) for name, x in layers)
        return self.scale(sum(self.layer(*found) for found in widths))

    def measure(self, after: Darknet, rounds: int) -> tuple[float, Timing]:
        """Milliseconds of a pruned network, in turns with the unpruned one, and both.

        Where a share was asked for, that of the time in the same turns counts, whatever else runs.
        """
        found = timing(self.job, self.job.model, after, rounds)
        assert found.before is not None
        assert found.after is not None
        scale = self.full / found.before.p50 if self.job.args.max_ms.is_share else 1.0
        return scale * found.after.p50, found

    @cached_property
    def _convolutions(self) -> dict[str, Convolution]:
        return {found.name: found for found in self.job.convolutions}


@dataclass(frozen=True)
class Try:
    """A mask that was measured.

    Attributes:
        predicted: milliseconds by the table.
        taken: measured, as they count against what was asked for.
        timing: of that measurement.
        within: whether the other limits are met.
    """

    keep: UnitMask
    predicted: float
    taken: float
    timing: Timing
    within: bool = True


@dataclass
class Aims:
    """Which prediction to aim at next, so that the measurement comes out as `asked`.

    The first guesses scale the prediction by what was measured; once one network fits and another does not,
    the middle of the two is tried.
    """

    asked: float
    low: float = 0.0  # the largest prediction that fitted
    high: float = math.inf  # the smallest that did not

    def fits(self, found: Try) -> bool:
        """Whether another measurement would not find it slower than asked, and the other limits are met."""
        return found.within and found.taken <= _MOST * self.asked

    def reached(self, found: Try) -> bool:
        """Whether it fits and leaves little of what was asked for."""
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
        """The slowest that fits.

        Raises:
            PruningError: none does.
        """
        found = list(tries)
        fitting = [each for each in found if self.fits(each)]
        fitting = fitting or [each for each in found if each.within and each.taken <= self.asked]
        if not fitting:
            times = [each.taken for each in found if each.within] or [each.taken for each in found]
            fact = f"{self.asked:.2f} ms not reached, the fastest network took {min(times):.2f} ms"
            raise PruningError("--max-ms", fact, "ask for more")
        return max(fitting, key=lambda each: each.taken)

    def told(self, best: Try, tries: Iterable[Try]) -> str:
        """The measurement as a sentence."""
        where = (
            f"{best.timing.runtime}, threads {torch.get_num_threads()}, in turns with the unpruned network"
        )
        told = f"{best.taken:.2f} ms of {self.asked:.2f} asked for, measured on {where}"
        if best.taken >= _LEAST * self.asked:
            return told
        slower = [each.taken for each in tries if not self.fits(each)]
        return f"{told}; the next larger network found takes {min(slower):.2f} ms" if slower else told
