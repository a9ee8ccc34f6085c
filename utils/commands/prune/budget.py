"""--max-ms, --max-macs, --max-params, --max-mb, --min-map: the best network that fits, found and measured."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ...data.loader import Loader
from ...errors import PruningError, ToolkitError
from ...frontends.darknet.subject import DarknetSubject
from ...pruning.budget_search import BudgetSearch, Limit
from ...pruning.channels import UnitMask, WidthLimits
from ...pruning.costs import Costs, costs_of
from ...pruning.subject import ChannelPlan, LayerScores, Subject
from ...pruning.surgery import PruningResult, prune
from ..evaluate.run import evaluate_network
from .budget_latency import LONG, ROUNDS, Aims, Clock, Try
from .job import Job
from .stages import Timing, alignment_notes, evaluations, recalibrated

logger = logging.getLogger(__name__)

# how often Taylor scores are taken on the way to a budget
STAGES = 4
# training images that candidates are compared on
JUDGED_IMAGES = 128
_TRIES = 10
# halvings of the way between all and nothing when only a least mAP is given
_HALVINGS = 6


def shares_asked(job: Job) -> dict[str, tuple[float, float]]:
    """Name of each limit -> what the network costs now, and the share of it that it may.

    Without --min-map, and without a share of the milliseconds, which says itself what it is.
    """
    args = copy(job.args)
    if args.max_ms is not None and args.max_ms.is_share:
        args.max_ms = None  # nothing has to be measured for it
    search = _Search.of(replace(job, args=args), 0.0)
    full = np.ones(job.subject.graph.unit_count, dtype=np.bool_)
    wholes = {limit.name.strip("-").replace("-", "_"): limit for limit in search.selection.limits}
    return {name: (limit.cost(full), limit.most / limit.cost(full)) for name, limit in wholes.items()}


@dataclass(frozen=True)
class Budget:
    """The best network that fits.

    Attributes:
        keep: its mask.
        notes: what was found out on the way, a sentence each.
        timing: before and after, for a budget of milliseconds.
    """

    keep: UnitMask
    notes: tuple[str, ...] = ()
    timing: Timing | None = None

    def policy(self, _subject: Subject, _scores: LayerScores) -> ChannelPlan:
        """The plan that keeps it."""
        return ChannelPlan(self.keep)


def within_budget(job: Job) -> Budget:
    """Find what fits, and measure it.

    Raises:
        ToolkitError: a limit cannot be met, or needs what was not given.
    """
    args = job.args
    if args.min_map is not None and job.validation is None:
        raise ToolkitError("--min-map", "mAP has to be measured", "add --data, without --no-eval")
    search = _Search.of(job, args.layer_keep)
    if not search.selection.limits:
        found = search.smallest(args.min_map)
    else:
        found = search.within()
        if args.min_map is not None:
            found = replace(found, notes=(*found.notes, search.check_map(found.keep, args.min_map)))
    return replace(found, notes=(*found.notes, *alignment_notes(job, search.selection.widths.align)))


@dataclass
class _Search:
    job: Job
    selection: BudgetSearch[DarknetSubject]
    costs: Costs
    clock: Clock | None

    @classmethod
    def of(cls, job: Job, layer_keep: float) -> "_Search":
        args, graph = job.args, job.subject.graph
        image = torch.zeros(1, job.model.network.channels(-1), *job.image_size)
        costs = costs_of(job.model, graph, image.to(job.device))
        clock = Clock.of(job) if args.max_ms is not None else None
        full = np.ones(graph.unit_count, dtype=np.bool_)
        limits = []
        for name, cost, layer_cost in _kinds(costs, len(job.model.header.pack())):
            found = getattr(args, name)
            if found is not None:
                limits.append(Limit(f"--{name.replace('_', '-')}", cost, layer_cost, found.of(cost(full))))
        if clock is not None:
            limits.append(Limit("--max-ms", clock.predicted, clock.layer, args.max_ms.of(clock.full)))
        widths = WidthLimits(_align(job, limits), args.min_channels, layer_keep)
        stages = STAGES if "taylor" in job.score else 1
        selection = BudgetSearch(job.subject, job.scorer, tuple(limits), widths, args.merge, stages)
        search = cls(job, selection, costs, clock)
        if job.data is not None:
            selection.judge = search.worth
        return search

    def worth(self, keep: UnitMask) -> float:
        """mAP@0.5 on training images of the network that a mask leaves."""
        assert self.job.data is not None
        model = recalibrated(self.job, self._compact(keep), self.job.args.recalibrate).model
        return evaluate_network(model, self._images, self.job.data.names, label="candidates").map50

    @cached_property
    def _images(self) -> Loader:
        return self.job.images("train", JUDGED_IMAGES)

    def within(self) -> Budget:
        """The best mask within the limits, milliseconds measured."""
        full = np.ones(self.job.subject.graph.unit_count, dtype=np.bool_)
        costs = [limit.cost(full) for limit in self.selection.limits]
        costs[-1:] = costs[-1:] if self.clock is None else [self.clock.full]  # measured, not predicted
        self.selection.require_excess(costs)
        counted = self.selection.limits if self.clock is None else self.selection.limits[:-1]
        keep = self.selection.mask()
        if self.job.args.fold == "borders":
            keep = self._with_carriers(keep, counted)
        return Budget(keep) if self.clock is None else self._timed(keep, counted)

    def _with_carriers(self, keep: UnitMask, counted: Sequence[Limit]) -> UnitMask:
        """Aim lower until the network is within the `counted` limits with its carriers, too."""
        for _ in range(_TRIES):
            found = [limit.cost(self._pruned(keep).keep) for limit in counted]
            if all(cost <= limit.most for cost, limit in zip(found, counted, strict=True)):
                return keep
            aims = list(self.selection.limits)
            for index, (limit, cost) in enumerate(zip(counted, found, strict=True)):
                if cost > limit.most:  # below what it costs without carriers, so that something goes
                    aims[index] = replace(limit, most=limit.cost(keep) * limit.most / cost)
            keep = self.selection.again(aims)
        raise PruningError("--fold borders", f"no room for its channels in {_TRIES} tries", "use interior")

    def _timed(self, keep: UnitMask, counted: Sequence[Limit]) -> Budget:
        """Measure, and correct what was predicted, until the network takes what was asked for."""
        assert self.clock is not None
        *others, limit = self.selection.limits
        aims = Aims(limit.most)
        # That takes more than asked for, whatever is predicted, and is no result however it is measured.
        whole = np.ones_like(keep)
        tried = {
            whole.tobytes(): Try(
                whole, self.clock.predicted(whole), self.clock.full, Timing(""), within=False
            )
        }
        for _ in range(_TRIES):
            found = tried.get(keep.tobytes()) or self._try(keep, aims.asked, counted)
            tried[keep.tobytes()] = found
            if aims.reached(found):
                break
            with suppress(PruningError):  # what was predicted may leave no room where what was measured does
                keep = self.selection.again([*others, replace(limit, most=aims.next(found))])
        best = aims.best(tried.values())
        return Budget(best.keep, (aims.told(best, tried.values()),), best.timing)

    def _try(self, keep: UnitMask, asked: float, counted: Sequence[Limit]) -> Try:
        """What fits is measured a second time, longer, and that is what counts and is told."""
        assert self.clock is not None
        result = self._pruned(keep)
        taken, timing = self.clock.measure(result.compact.model, ROUNDS)
        if taken <= asked:
            taken, timing = self.clock.measure(result.compact.model, LONG)
        within = all(cost.cost(result.keep) <= cost.most for cost in counted)
        return Try(keep, self.clock.predicted(keep), taken, timing, within)

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
            tried.append(f"{share:.0%} {'cannot be' if map50 < 0 else f'{map50:.3f}'}")
            logger.info("of the multiply-adds, mAP@0.5: %s", tried[-1])
            if map50 >= least:
                best, high = keep, share
            else:
                low = share
        if best is None:
            fact = f"no pruned network reaches it (multiply-adds, mAP: {', '.join(tried)})"
            raise PruningError(f"--min-map {least}", fact, "train it to be sparser, or --recalibrate")
        return Budget(best, (f"multiply-adds and mAP@0.5 tried for --min-map: {', '.join(tried)}",))

    def check_map(self, keep: UnitMask, least: float) -> str:
        """Refuse a network below `least`."""
        map50 = self._map50(keep)
        if map50 < least:
            fact = f"the best network within the limits has mAP@0.5 {map50:.4f}"
            raise PruningError(
                f"--min-map {least}", fact, "allow more, accept less, or train it to be sparser"
            )
        return f"mAP@0.5 {map50:.4f} of at least {least} asked for"

    def _pruned(self, keep: UnitMask) -> PruningResult[DarknetSubject]:
        return prune(self.job.subject, [Budget(keep).policy], lambda _: {}, folding=self.job.args.fold)

    def _compact(self, keep: UnitMask) -> DarknetSubject:
        return self._pruned(keep).compact

    def _map50(self, keep: UnitMask) -> float:
        subject = recalibrated(self.job, self._compact(keep), self.job.args.recalibrate)
        found = evaluations(self.job, {"candidate": subject.model})["candidate"]
        assert found is not None
        return found.map50


def _align(job: Job, limits: Sequence[Limit]) -> int:
    """The job's; where its latency table says it, halved until the smallest network is within the limits."""
    align, graph = job.align, job.subject.graph
    nothing = np.zeros(graph.unit_count, dtype=np.bool_)

    def fits() -> bool:
        smallest = graph.legal(nothing, np.zeros(graph.unit_count), align, job.args.min_channels)
        return all(limit.cost(smallest) <= limit.most for limit in limits)

    while job.aligns_itself and align > 1 and not fits():
        align //= 2
    return align


Kind = tuple[str, Callable[[UnitMask], float], Callable[[str, int, int], float]]


def _kinds(costs: Costs, header: int) -> list[Kind]:
    """Name, cost of a mask and of a layer; `header` is the bytes of a .weights file before the values."""
    mebi = 2**20

    def layer_mebibytes(name: str, inputs: int, outputs: int) -> float:
        return 4 * costs.layer_parameters(name, inputs, outputs) / mebi

    return [
        ("max_macs", costs.macs, costs.layer_macs),
        ("max_params", costs.parameters, costs.layer_parameters),
        ("max_mb", lambda keep: (costs.file_size(keep) + header) / mebi, layer_mebibytes),
    ]
