"""Latency of pruned networks for --max-ms: predicted from a table, measured, and the prediction corrected."""

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
from .job import Job, LatencyPair

# interleaved rounds of a first and of a longer, decisive measurement
ROUNDS, LONG = 30, 90
# target, lower and upper bound as shares of the milliseconds asked for: re-measured, a network takes a per
# cent or two more or less
_AIM, _ENOUGH, _MOST = 0.945, 0.92, 0.97
# a result below this share of the limit is explained in its note
_LEAST = 0.9


@dataclass(frozen=True)
class Clock:
    """Predicts and measures the latency of a job's pruned networks.

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
        """Of one layer, from the table; 0 for a layer that is not a convolution."""
        found = self._convolutions.get(name)
        return 0.0 if found is None else self.job.table.milliseconds(found.conv, inputs, outputs)

    def predicted(self, keep: UnitMask) -> float:
        """Of the network that a mask leaves."""
        layers = self.job.subject.graph.layers.items()
        widths = ((name, int(keep[x.inputs].sum()), int(keep[x.outputs].sum())) for name, x in layers)
        return self.scale(sum(self.layer(*found) for found in widths))

    def measure(self, after: Darknet, rounds: int) -> tuple[float, LatencyPair]:
        """Milliseconds of a pruned network, measured interleaved with the unpruned one, and both latencies.

        For a limit given as a share, the share within the same measurement counts: load on the machine
        slows down both.
        """
        found = self.job.latencies(self.job.model, after, rounds)
        limit = self.job.options.max_ms
        assert found.before is not None
        assert found.after is not None
        scale = self.full / found.before.p50 if limit is not None and limit.is_share else 1.0
        return scale * found.after.p50, found

    @cached_property
    def _convolutions(self) -> dict[str, Convolution]:
        return {found.name: found for found in self.job.convolutions}


@dataclass(frozen=True)
class Try:
    """A mask whose network was measured.

    Attributes:
        predicted: milliseconds, from the table.
        taken: milliseconds, measured, as they count against the limit.
        latencies: of that measurement.
        within: whether the other limits are met.
    """

    keep: UnitMask
    predicted: float
    taken: float
    latencies: LatencyPair
    within: bool = True


@dataclass
class Aims:
    """Chooses the prediction to aim at next, so that the measurement meets the limit.

    The first guesses scale the prediction by the last measurement; once one network fits and another does
    not, the middle of the two is tried.

    Attributes:
        asked: the limit in milliseconds.
        low: the largest prediction that fitted.
        high: the smallest prediction that did not.
    """

    asked: float
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
            raise PruningError("--max-ms", fact, "raise the limit")
        return max(fitting, key=lambda each: each.taken)

    def note(self, best: Try, tries: Iterable[Try]) -> str:
        """The measurement as a sentence."""
        where = f"{best.latencies.runtime}, threads {torch.get_num_threads()}"
        note = f"{best.taken:.2f} ms of at most {self.asked:.2f}, measured on {where}, "
        note += "interleaved with the unpruned network"
        if best.taken >= _LEAST * self.asked:
            return note
        slower = [each.taken for each in tries if not self.fits(each)]
        return f"{note}; the next larger network found takes {min(slower):.2f} ms" if slower else note
