"""Budgets (--max-ms, --max-macs, --max-params, --max-mb, --min-map): the best network within the limits.

The engine's search proposes a mask for the limits; what cannot be predicted exactly (milliseconds, mAP,
channels that carry constants) is measured, and the search is asked again with corrected limits.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ...data.loader import Loader
from ...errors import PruningError, ToolkitError
from ...frontends.darknet.subject import DarknetSubject
from ...pruning import surgery
from ...pruning.aims import Aims, Try, approached
from ...pruning.budget_search import BudgetSearch, Limit
from ...pruning.channels import UnitMask, WidthLimits
from ...pruning.costs import Costs, costs_of
from ...pruning.subject import ChannelPlan, LayerScores, Subject
from ...pruning.surgery import PruningResult
from ..evaluate.run import evaluate_network
from .budget_latency import LONG, ROUNDS, Clock
from .job import Job, LatencyPair
from .options import Amount, spelled

logger = logging.getLogger(__name__)

# how often Taylor scores are recomputed on the way to a budget
STAGES = 4
# training images that candidates are compared on
JUDGED_IMAGES = 128
_TRIES = 10
# halvings of the range between all and nothing when only a least mAP is given
_HALVINGS = 6


@dataclass(frozen=True)
class Budget:
    """The best network within the limits.

    Attributes:
        keep: its mask.
        notes: what was found out on the way, a sentence each.
        latencies: before and after, for a budget of milliseconds.
    """

    keep: UnitMask
    notes: tuple[str, ...] = ()
    latencies: LatencyPair | None = None

    def policy(self, _subject: Subject, _scores: LayerScores) -> ChannelPlan:
        """The plan that keeps it."""
        return ChannelPlan(self.keep)


def within_budget(job: Job) -> Budget:
    """Find the best network within the limits of the job's options, and measure it.

    Raises:
        ToolkitError: a limit cannot be met, or needs what was not given.
    """
    least = job.options.min_map
    if least is not None and job.validation is None:
        raise ToolkitError("--min-map", "mAP has to be measured", "add --data, without --no-eval")
    search = _Search.of(job)
    if not search.selection.limits:
        assert least is not None
        found = search.smallest(least)
    else:
        found = search.within()
        if least is not None:
            found = replace(found, notes=(*found.notes, search.check_map(found.keep, least)))
    return replace(found, notes=(*found.notes, *job.alignment_notes(search.selection.widths.align)))


def requested_shares(job: Job) -> dict[str, tuple[float, float]]:
    """Name of each limit -> what the unpruned network costs, and which share of it is allowed.

    Without --min-map, and without --max-ms given as a share, for which nothing has to be measured.
    """
    asked = job.options.max_ms
    clock = None if asked is None or asked.is_share else Clock.of(job)
    whole = np.ones(job.subject.graph.unit_count, dtype=np.bool_)
    limits = _limits(job, _costs(job), clock)
    return {name: (limit.cost(whole), limit.most / limit.cost(whole)) for name, limit in limits.items()}


@dataclass
class _Search:
    """The engine's search, and the measurements that it cannot do.

    Attributes:
        clock: measures milliseconds; None without --max-ms.
    """

    job: Job
    selection: BudgetSearch[DarknetSubject]
    costs: Costs
    clock: Clock | None

    @classmethod
    def of(cls, job: Job) -> "_Search":
        options, costs = job.options, _costs(job)
        clock = Clock.of(job) if options.max_ms is not None else None
        limits = tuple(_limits(job, costs, clock).values())
        widths = WidthLimits(_align(job, limits), options.min_channels, options.layer_keep)
        stages = STAGES if "taylor" in job.score else 1
        selection = BudgetSearch(job.subject, job.scorer, limits, widths, options.merge, stages)
        search = cls(job, selection, costs, clock)
        if job.data is not None:
            selection.judge = search.worth
        return search

    def worth(self, keep: UnitMask) -> float:
        """mAP@0.5 on training images of the network that a mask leaves."""
        assert self.job.data is not None
        model = self._recalibrated(keep).model
        images, names = self._images, self.job.data.names
        return evaluate_network(model, images, names, label="candidates", track=self.job.track).map50

    @cached_property
    def _images(self) -> Loader:
        return self.job.images("train", JUDGED_IMAGES)

    def within(self) -> Budget:
        """The best mask within the limits, milliseconds measured."""
        whole = np.ones(self.job.subject.graph.unit_count, dtype=np.bool_)
        costs = [limit.cost(whole) for limit in self.selection.limits]
        costs[-1:] = costs[-1:] if self.clock is None else [self.clock.full]  # measured, not predicted
        self.selection.require_excess(costs)
        counted = self.selection.limits if self.clock is None else self.selection.limits[:-1]
        keep = self.selection.mask()
        if self.job.options.fold == "borders":
            keep = self._with_carriers(keep, counted)
        return Budget(keep) if self.clock is None else self._timed(keep, counted)

    def _with_carriers(self, keep: UnitMask, counted: Sequence[Limit]) -> UnitMask:
        """Aim lower until the network with its carriers is within the `counted` limits, too."""
        for _ in range(_TRIES):
            found = [limit.cost(self._pruned(keep).keep) for limit in counted]
            if all(cost <= limit.most for cost, limit in zip(found, counted, strict=True)):
                return keep
            aims = list(self.selection.limits)
            for index, (limit, cost) in enumerate(zip(counted, found, strict=True)):
                if cost > limit.most:  # below what it costs without carriers, so that something is removed
                    aims[index] = replace(limit, most=limit.cost(keep) * limit.most / cost)
            keep = self.selection.again(aims)
        fact = f"in {_TRIES} tries no room was found for its extra channels"
        raise PruningError("--fold borders", fact, "use --fold interior")

    def _timed(self, keep: UnitMask, counted: Sequence[Limit]) -> Budget:
        """Measure, and correct the predictions, until the network is as fast as asked for."""
        assert self.clock is not None
        *others, limit = self.selection.limits
        aims, whole = Aims(limit.most, limit.name), np.ones_like(keep)
        measured: dict[bytes, LatencyPair] = {}
        best, tries = approached(
            aims,
            keep,
            Try(whole, self.clock.predicted(whole), self.clock.full, within=False),
            lambda mask: self._try(mask, aims.asked, counted, measured),
            lambda most: self.selection.again([*others, replace(limit, most=most)]),
        )
        latencies = measured[best.keep.tobytes()]
        where = f"{latencies.runtime}, threads {torch.get_num_threads()}"
        return Budget(best.keep, (aims.note(best, tries, where),), latencies)

    def _try(
        self, keep: UnitMask, asked: float, counted: Sequence[Limit], measured: dict[bytes, LatencyPair]
    ) -> Try:
        """Measure a network; one that is fast enough is re-measured, and the longer measurement counts."""
        assert self.clock is not None
        result = self._pruned(keep)
        taken, latencies = self.clock.measure(result.compact.model, ROUNDS)
        if taken <= asked:
            taken, latencies = self.clock.measure(result.compact.model, LONG)
        within = all(cost.cost(result.keep) <= cost.most for cost in counted)
        measured[keep.tobytes()] = latencies
        return Try(keep, self.clock.predicted(keep), taken, within)

    def smallest(self, least: float) -> Budget:
        """The mask of the fewest multiply-adds with which mAP is at least `least`."""
        whole = self.costs.macs(np.ones(self.job.subject.graph.unit_count, dtype=np.bool_))
        low, high, best, tried = 0.0, 1.0, None, []
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            limit = Limit("--max-macs", self.costs.macs, self.costs.layer_macs, share * whole)
            try:
                keep = replace(self.selection, limits=(limit,)).mask()
                map50 = self._map50(keep)
            except PruningError:
                map50 = -1.0
            tried.append(f"{share:.0%} {'impossible' if map50 < 0 else f'{map50:.3f}'}")
            logger.info("share of the multiply-adds, mAP@0.5: %s", tried[-1])
            if map50 >= least:
                best, high = keep, share
            else:
                low = share
        if best is None:
            fact = f"no pruned network reaches it (multiply-adds, mAP: {', '.join(tried)})"
            raise PruningError(f"--min-map {least}", fact, "train it sparser, or add --recalibrate")
        return Budget(best, (f"multiply-adds and mAP@0.5 tried for --min-map: {', '.join(tried)}",))

    def check_map(self, keep: UnitMask, least: float) -> str:
        """Refuse a network below `least`; otherwise return a note."""
        map50 = self._map50(keep)
        if map50 < least:
            fact = f"the best network within the limits has mAP@0.5 {map50:.4f}"
            remedy = "raise the limits, lower --min-map, or train it sparser"
            raise PruningError(f"--min-map {least}", fact, remedy)
        return f"mAP@0.5 {map50:.4f}, at least {least} was requested"

    def _pruned(self, keep: UnitMask) -> PruningResult[DarknetSubject]:
        fold = self.job.options.fold
        return surgery.prune(self.job.subject, [Budget(keep).policy], lambda _: {}, folding=fold)

    def _recalibrated(self, keep: UnitMask) -> DarknetSubject:
        compact = self._pruned(keep).compact
        return self.job.recalibrated(compact, self.job.options.images_to_recalibrate)

    def _map50(self, keep: UnitMask) -> float:
        return self.job.map50(self._recalibrated(keep).model, "candidate")


def _costs(job: Job) -> Costs:
    image = torch.zeros(1, job.model.network.channels(-1), *job.image_size)
    return costs_of(job.model, job.subject.graph, image.to(job.device))


def _limits(job: Job, costs: Costs, clock: Clock | None) -> dict[str, Limit]:
    """The limits of the options by name; that of the clock last, left out without one."""
    options, whole = job.options, np.ones(job.subject.graph.unit_count, dtype=np.bool_)
    asked: dict[str, tuple[Amount | None, _Cost]] = {
        "max_macs": (options.max_macs, (costs.macs, costs.layer_macs)),
        "max_params": (options.max_params, (costs.parameters, costs.layer_parameters)),
        "max_mb": (options.max_mb, _mebibytes(costs, len(job.model.header.pack()))),
    }
    limits = {
        name: Limit(spelled(name), cost, layer_cost, amount.of(cost(whole)))
        for name, (amount, (cost, layer_cost)) in asked.items()
        if amount is not None
    }
    if clock is not None and options.max_ms is not None:
        most = options.max_ms.of(clock.full)
        limits["max_ms"] = Limit(spelled("max_ms"), clock.predicted, clock.layer, most)
    return limits


_Cost = tuple[Callable[[UnitMask], float], Callable[[str, int, int], float]]  # of a mask, and of a layer


def _mebibytes(costs: Costs, header: int) -> _Cost:
    """Of a .weights file with `header` bytes before the values."""
    mebi = 2**20

    def of_layer(name: str, inputs: int, outputs: int) -> float:
        return 4 * costs.layer_parameters(name, inputs, outputs) / mebi

    return lambda keep: (costs.file_size(keep) + header) / mebi, of_layer


def _align(job: Job, limits: Sequence[Limit]) -> int:
    """The job's; one set by the latency table is halved until the smallest network is within the limits."""
    align, graph = job.align, job.subject.graph
    nothing = np.zeros(graph.unit_count, dtype=np.bool_)

    def fits() -> bool:
        smallest = graph.legal(nothing, np.zeros(graph.unit_count), align, job.options.min_channels)
        return all(limit.cost(smallest) <= limit.most for limit in limits)

    while job.aligns_itself and align > 1 and not fits():
        align //= 2
    return align
