"""Latency of pruned networks for --max-ms: predicted from a table, measured, and the prediction corrected."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ...darknet.model import Darknet
from ...pruning.channels import UnitMask
from ...pruning.conv_classes import Convolution
from ..latency.network import calibrate
from .job import Job, LatencyPair

# interleaved rounds of a first and of a longer, decisive measurement
ROUNDS, LONG = 30, 90


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
