"""Budgets of `slim`: the best channels within a limit of multiply-adds, parameters or milliseconds."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import PruningError
from ...options import Amount, amount
from ...pruning.budget_search import BudgetSearch, Limit
from ...pruning.channels import UnitMask, WidthLimits
from ...pruning.costs import costs_of
from ...pruning.scores import Scorer
from .subject import ModuleSubject

LIMITS = ("max_macs", "max_params", "max_ms")
_STAGES = 4  # how often a score that depends on what is left is computed on the way


def limits_of(given: Mapping[str, str | float]) -> dict[str, Amount]:
    """The limits that are given, each a number, or text such as "40%" or "1.5G".

    Raises:
        PruningError: one is neither, is not above 0, or is not below 100%.
    """
    found = {}
    for name, value in given.items():
        try:
            found[name] = amount(str(value))
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise PruningError(f"{name} {value!r}", "invalid value", 'give a number, or "40%"') from error
        if found[name].is_share and found[name].value >= 1:
            raise PruningError(f"{name} {value!r}", "is not a limit", "give a share below 100%")
    return found


@dataclass(frozen=True)
class Parameters:
    """The number of parameters by mask, counted over every tensor that becomes narrow.

    Attributes:
        parts: for each parameter the values that go with one place of its axes, and of each axis the units
            (vectors, n), whose vectors keep equally many.
    """

    parts: tuple[tuple[int, tuple[NDArray[np.intp], ...]], ...]

    @classmethod
    def of(cls, subject: ModuleSubject) -> "Parameters":
        """The parameters of a subject."""
        parts = []
        for name, tensor in subject.model.named_parameters():
            axes = subject.trace.tensors.get(name, {})
            whole = math.prod(tensor.shape[axis] for axis in axes)
            parts.append(
                (tensor.numel() // whole, tuple(_vectors(units, axis) for axis, units in axes.items()))
            )
        return cls(tuple(parts))

    def __call__(self, keep: UnitMask) -> float:
        """The number for a mask."""
        return sum(
            values * math.prod(int(keep[units].sum(1).max()) for units in axes) for values, axes in self.parts
        )


def _vectors(units: Tensor, axis: int) -> NDArray[np.intp]:
    found: NDArray[np.intp] = units.movedim(axis, -1).reshape(-1, units.shape[axis]).numpy()
    return found


def within_budget(
    subject: ModuleSubject,
    given: Mapping[str, Amount],
    score: Scorer,
    widths: WidthLimits,
    is_local: bool,
    runtime: str,
    threads: int,
) -> tuple[UnitMask, tuple[str, ...]]:
    """The best mask within the limits, and what was measured, in sentences.

    Args:
        subject: the network, with what may not go pinned.
        given: names of LIMITS -> limit.
        score: importance of every channel.
        widths: limits on widths.
        is_local: whether the score depends on what is left, so that it is computed several times.
        runtime, threads: where milliseconds are measured.

    Raises:
        PruningError: the limits cannot be met, or are met already.
    """
    costs = costs_of(subject.model, subject.graph, subject.example, subject.cells())
    whole = np.ones(subject.graph.unit_count, dtype=np.bool_)
    known: dict[str, tuple[Callable[[UnitMask], float], Callable[[str, int, int], float]]] = {
        "max_macs": (costs.macs, costs.layer_macs),
        "max_params": (Parameters.of(subject), costs.layer_parameters),
    }
    limits = []
    for name, asked in given.items():
        if name == "max_ms":
            continue
        cost, of_layer = known[name]
        limits.append(Limit(name, cost, of_layer, asked.of(cost(whole))))
    search = BudgetSearch(subject, score, tuple(limits), widths, stages=_STAGES if is_local else 1)
    if "max_ms" in given:
        from .milliseconds import Clock, within_milliseconds  # on use: it needs runtimes

        clock = Clock.of(subject, costs, score, runtime, threads)
        keep, note = within_milliseconds(search, clock, limits, given["max_ms"])
        return keep, (note,)
    search.require_excess([limit.cost(whole) for limit in limits])
    return search.mask(), ()
