"""A budget of milliseconds for any network: what the pruned network takes is measured on the runtime.

Multiply-adds predict which channels to remove for how much time; they are calibrated on the network at full
and at half width, and corrected by what each pruned network really takes, measured interleaved with the
unpruned one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from ...errors import PruningError
from ...options import Amount
from ...profiling import measure_latency
from ...pruning.aims import Aims, Try, approached
from ...pruning.budget_search import BudgetSearch, Limit
from ...pruning.channels import UnitMask
from ...pruning.costs import Costs
from ...pruning.latency import Calibration
from ...pruning.layers import shared_copy, torch_threads
from ...pruning.policies import GroupRatios
from ...pruning.scores import Scorer
from ...pruning.subject import ChannelPlan
from ...pruning.surgery import prune
from ...runtimes.runtime import NAMES, Runtime, find_runtime
from .inputs import is_one_tensor
from .subject import ModuleSubject

NAME = "max_ms"
_MEGA = 1e6  # a calibration is of numbers that are not tiny
_ROUNDS, _LONG = 20, 60  # of a first and of a decisive measurement


@dataclass(frozen=True)
class Clock:
    """Predicts and measures the milliseconds of a subject's pruned networks.

    Attributes:
        subject: the network.
        costs: its multiply-adds by mask.
        runtime: that runs the networks.
        threads: of the runtime.
        full: milliseconds of the unpruned network, measured.
        calibration: from millions of multiply-adds to milliseconds.
    """

    subject: ModuleSubject
    costs: Costs
    runtime: Runtime
    threads: int
    full: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def of(cls, subject: ModuleSubject, costs: Costs, score: Scorer, runtime: str, threads: int) -> "Clock":
        """Measure a subject.

        Raises:
            ToolkitError: the runtime is unknown or missing, or does not take the network.
        """
        if runtime not in NAMES:
            raise PruningError(f"runtime {runtime!r}", "unknown", f"use one of {', '.join(NAMES)}")
        if runtime != "torch" and not is_one_tensor(subject.inputs):
            fact = "takes networks of one tensor here"
            raise PruningError(f"runtime {runtime!r}", fact, 'use runtime="torch", or wrap the network')
        clock = cls(subject, costs, find_runtime(runtime), threads)
        half = GroupRatios(dict.fromkeys(subject.graph.layers, 0.5))
        narrow = prune(subject, [half], score, folding="off", may_keep_all=True)
        full, other = clock.measured(narrow.compact.model, _ROUNDS)
        whole = np.ones(subject.graph.unit_count, dtype=np.bool_)
        points = {costs.macs(whole) / _MEGA: full, costs.macs(narrow.keep) / _MEGA: other}
        return replace(clock, full=full, calibration=Calibration.fitted(list(points), list(points.values())))

    def predicted(self, keep: UnitMask) -> float:
        """Of the network that a mask leaves."""
        return self.calibration(self.costs.macs(keep) / _MEGA)

    def layer(self, name: str, inputs: int, outputs: int) -> float:
        """Of one layer."""
        return self.calibration.scale * self.costs.layer_macs(name, inputs, outputs) / _MEGA

    def measured(self, pruned: nn.Module, rounds: int) -> tuple[float, float]:
        """Of the unpruned network and a pruned one, interleaved."""
        with torch_threads(self.threads):
            runs = {"full": self._run(self.subject.model), "pruned": self._run(pruned)}
            found = measure_latency(runs, rounds)
        return found["full"].p50, found["pruned"].p50

    def _run(self, model: nn.Module) -> Callable[[], object]:
        inputs, network = self.subject.inputs.repeated(1).random(), shared_copy(model).eval()
        if self.runtime.name == "torch":

            def run() -> object:
                with torch.inference_mode():
                    return inputs(network)

            return run
        from ...exporters.tracing import module_session  # on use: it needs the extra "darknet"

        images = inputs.first.cpu().float()
        if inputs.fixed:
            network = _Fixed(network, inputs.fixed)
        return module_session(network.cpu().float(), images, self.runtime).bound(images.numpy())


class _Fixed(nn.Module):
    """A network with keyword arguments that never change."""

    def __init__(self, model: nn.Module, fixed: object) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed

    def forward(self, images: torch.Tensor) -> object:
        """What the network returns."""
        return self.model(images, **self.fixed)  # type: ignore[arg-type]


def within_milliseconds(
    search: BudgetSearch[ModuleSubject], clock: Clock, others: Sequence[Limit], asked: Amount
) -> tuple[UnitMask, str]:
    """The best mask whose network is measured to be within the limit, and a sentence on the measurement.

    Args:
        search: of the network's channels; its limits are set here.
        clock: measures.
        others: further limits.
        asked: milliseconds, or a share of those of the unpruned network.

    Raises:
        PruningError: the limits cannot be met, or are met already.
    """
    limit = Limit(NAME, clock.predicted, clock.layer, asked.of(clock.full))
    whole = np.ones(clock.subject.graph.unit_count, dtype=np.bool_)
    search.limits = (*others, limit)
    search.require_excess([*(each.cost(whole) for each in others), clock.full])

    def measure(keep: UnitMask) -> Try:
        pruned = prune(clock.subject, [ChannelPlan(keep).itself], lambda _: {}, folding="off")
        full, taken = clock.measured(pruned.compact.model, _ROUNDS)
        if taken <= limit.most:
            full, taken = clock.measured(pruned.compact.model, _LONG)
        taken *= clock.full / full if asked.is_share else 1.0  # load on the machine slows down both
        within = all(each.cost(pruned.keep) <= each.most for each in others)
        return Try(keep, clock.predicted(keep), taken, within)

    aims = Aims(limit.most, NAME)
    best, tries = approached(
        aims,
        search.mask(),
        Try(whole, clock.predicted(whole), clock.full, within=False),
        measure,
        lambda most: search.again([*others, replace(limit, most=most)]),
    )
    where = f"{clock.runtime.name} {clock.runtime.version}, threads {clock.threads}"
    return best.keep, f"{aims.note(best, tries, where)}, which took {clock.full:.2f}"
