"""--max-ms, --max-macs, --max-params, --max-mb, --min-map: the best network that fits, found and measured."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from utils.commands.evaluate import evaluate_network
from utils.commands.latency_network import calibrate, network_latencies
from utils.commands.pruning_job import Job
from utils.commands.pruning_stages import evaluations, recalibrated
from utils.darknet.model import Darknet
from utils.data.loader import Loader
from utils.errors import PruningError, ToolkitError
from utils.frontends.darknet import DarknetSubject
from utils.pruning.budget import Widths
from utils.pruning.channels import UnitMask
from utils.pruning.costs import Costs, costs_of
from utils.pruning.selection import Limit, Selection
from utils.pruning.subject import ChannelPlan, Policy
from utils.pruning.surgery import PruningResult, prune

logger = logging.getLogger(__name__)

# how often Taylor scores are taken on the way to a budget
STAGES = 4
# training images that candidates are compared on
JUDGED_IMAGES = 128
# what is aimed at, and what is accepted, as shares of the milliseconds asked for
_AIM, _LEAST, _MOST = 0.96, 0.92, 0.99
_TRIES, _ROUNDS = 6, 30
# halvings of the way between all and nothing when only a least mAP is given
_HALVINGS = 6


def shares_asked(job: Job) -> dict[str, tuple[float, float]]:
    """Name of each limit but --min-map -> what the network costs now, and the share of it that it may."""
    search = _Search.of(job, 0.0)
    full = np.ones(job.subject.graph.unit_count, dtype=np.bool_)
    wholes = {limit.name.strip("-").replace("-", "_"): limit for limit in search.selection.limits}
    return {name: (limit.cost(full), limit.most / limit.cost(full)) for name, limit in wholes.items()}


def budget_policies(job: Job, layer_keep: float) -> tuple[list[Policy], tuple[str, ...]]:
    """The policy that keeps what fits, and what was found out on the way, a sentence each.

    Raises:
        ToolkitError: a limit cannot be met, or needs what was not given.
    """
    args = job.args
    if args.min_map is not None and job.validation is None:
        raise ToolkitError("--min-map: mAP has to be measured; add --data, without --no-eval")
    search = _Search.of(job, layer_keep)
    if not search.selection.limits:
        keep, told = search.smallest(args.min_map)
    else:
        keep, told = search.within()
        if args.min_map is not None:
            told += search.check_map(keep, args.min_map)
    return [lambda _subject, _scores: ChannelPlan(keep)], tuple(told)


@dataclass
class _Search:
    job: Job
    selection: Selection[DarknetSubject]
    costs: Costs
    clock: "_Clock | None"

    @classmethod
    def of(cls, job: Job, layer_keep: float) -> "_Search":
        args, graph = job.args, job.subject.graph
        image = torch.zeros(1, job.model.network.channels(-1), *job.image_size)
        costs = costs_of(job.model, graph, image.to(job.device))
        clock = _Clock.of(job) if args.max_ms is not None else None
        widths = Widths(job.align, args.min_channels, layer_keep)
        full = np.ones(graph.unit_count, dtype=np.bool_)
        limits = []
        for name, cost, layer_cost in _kinds(costs, len(job.model.header.pack())):
            found = getattr(args, name)
            if found is not None:
                limits.append(Limit(f"--{name.replace('_', '-')}", cost, layer_cost, found.of(cost(full))))
        if clock is not None:
            limits.append(clock.limit(args.max_ms.of(clock.full)))
        stages = STAGES if "taylor" in job.score else 1
        selection = Selection(job.subject, job.scorer, tuple(limits), widths, args.merge, stages)
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

    def within(self) -> tuple[UnitMask, list[str]]:
        """The best mask within the limits, milliseconds measured."""
        full = np.ones(self.job.subject.graph.unit_count, dtype=np.bool_)
        costs = [limit.cost(full) for limit in self.selection.limits]
        costs[-1:] = costs[-1:] if self.clock is None else [self.clock.full]  # measured, not predicted
        self.selection.require_excess(costs)
        counted = self.selection.limits if self.clock is None else self.selection.limits[:-1]
        keep = self.selection.mask()
        if self.job.args.fold == "borders":
            keep = self._with_carriers(keep, counted)
        return (keep, []) if self.clock is None else self._timed(keep, counted)

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
        raise PruningError(f"--fold borders: no room for its channels in {_TRIES} tries; use interior")

    def _timed(self, keep: UnitMask, counted: Sequence[Limit]) -> tuple[UnitMask, list[str]]:
        """Measure, and correct what was predicted, until the network takes what was asked for."""
        assert self.clock is not None
        *others, limit = self.selection.limits
        asked = limit.most
        best: tuple[float, UnitMask] | None = None
        for _ in range(_TRIES):
            result = self._pruned(keep)
            taken = self.clock.measure(result.compact.model)
            logger.info("%.2f ms measured, %.2f predicted, %.2f asked", taken, limit.cost(keep), asked)
            fits = taken <= _MOST * asked and all(c.cost(result.keep) <= c.most for c in counted)
            if fits and (best is None or taken > best[0]):
                best = (taken, keep)
            if fits and taken >= _LEAST * asked:
                break
            target = limit.cost(keep) * _AIM * asked / taken
            before = keep
            with suppress(PruningError):  # what was predicted may leave no room where what was measured does
                keep = self.selection.again([*others, replace(limit, most=target)])
            if (keep == before).all():
                break
        if best is None:
            fact = f"{asked:.2f} on {self.job.runtime.name} not reached, the last network took {taken:.2f}"
            raise PruningError(f"--max-ms: {fact}; ask for more")
        told = f"{best[0]:.2f} ms of {asked:.2f} asked for, measured on {self.job.runtime.name}, "
        return best[1], [f"{told}threads {torch.get_num_threads()}, in turns with the unpruned network"]

    def smallest(self, least: float) -> tuple[UnitMask, list[str]]:
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
            raise PruningError(f"--min-map {least}: {fact}; train it to be sparser, or --recalibrate")
        return best, [f"multiply-adds and mAP@0.5 tried for --min-map: {', '.join(tried)}"]

    def check_map(self, keep: UnitMask, least: float) -> list[str]:
        """Refuse a network below `least`."""
        map50 = self._map50(keep)
        if map50 < least:
            fact = f"the best network within the limits has mAP@0.5 {map50:.4f}"
            raise PruningError(
                f"--min-map {least}: {fact}; allow more, accept less, or train it to be sparser"
            )
        return [f"mAP@0.5 {map50:.4f} of at least {least} asked for"]

    def _pruned(self, keep: UnitMask) -> PruningResult[DarknetSubject]:
        plan: Callable[..., ChannelPlan] = lambda _subject, _scores: ChannelPlan(keep)  # noqa: E731
        return prune(self.job.subject, [plan], lambda _: {}, folding=self.job.args.fold)

    def _compact(self, keep: UnitMask) -> DarknetSubject:
        return self._pruned(keep).compact

    def _map50(self, keep: UnitMask) -> float:
        subject = recalibrated(self.job, self._compact(keep), self.job.args.recalibrate)
        found = evaluations(self.job, {"candidate": subject.model})["candidate"]
        assert found is not None
        return found.map50


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


@dataclass(frozen=True)
class _Clock:
    """How sums of a job's latency table become milliseconds of whole networks.

    Attributes:
        full: milliseconds of the unpruned network, measured.
        scale: from a sum over convolutions to a whole network.
    """

    job: Job
    full: float
    scale: Callable[[float], float]

    @classmethod
    def of(cls, job: Job) -> "_Clock":
        calibration, latency = calibrate(job.table, job.model.network, job.runtime, job.image_size)
        return cls(job, latency.p50, calibration)

    def limit(self, most: float) -> Limit:
        convolutions = {found.name: found.conv for found in self.job.convolutions}
        graph = self.job.subject.graph

        def layer(name: str, inputs: int, outputs: int) -> float:
            conv = convolutions.get(name)
            return 0.0 if conv is None else self.job.table.milliseconds(conv, inputs, outputs)

        def whole(keep: UnitMask) -> float:
            layers = graph.layers.items()
            widths = ((n, int(keep[x.inputs].sum()), int(keep[x.outputs].sum())) for n, x in layers)
            return self.scale(sum(layer(*found) for found in widths))

        return Limit("--max-ms", whole, layer, most)

    def measure(self, after: Darknet) -> float:
        """Milliseconds of a pruned network, in turns with the unpruned one.

        Where a share was asked for, that of the time in the same turns counts, whatever else runs.
        """
        models = {"before": self.job.model, "after": after}
        found = network_latencies(models, self.job.runtime, self.job.image_size, _ROUNDS)
        scale = self.full / found["before"].p50 if self.job.args.max_ms.is_share else 1.0
        return scale * found["after"].p50
