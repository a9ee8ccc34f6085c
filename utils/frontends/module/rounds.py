"""Several rounds of pruning and training, with one plan and one report in the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ...errors import PruningError
from ...pruning.channels import UnitMask
from .budget import LIMITS, limits_of
from .result import SlimReport, SlimResult
from .subject import Plan


def changes_of_round(rounds: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the options of `slim` for each of several rounds, so that all together do what was asked for.

    Args:
        rounds: how many, from 1.
        options: "ratio", "config", "max_macs" and "max_params".

    Raises:
        PruningError: a limit is not a share, whose part for a round is unknown.
    """

    def part(ratio: float) -> float:
        return 1 - (1 - ratio) ** (1 / rounds)

    changes: dict[str, Any] = {"ratio": part(options["ratio"])}
    if options["config"] is not None:
        changes["config"] = [
            {name: part(value) if name in ("sparsity", "ratio") else value for name, value in entry.items()}
            for entry in options["config"]
        ]
    given = {name: options[name] for name in LIMITS if options[name] is not None}
    for name, limit in limits_of(given).items():
        if not limit.is_share and rounds > 1:
            raise PruningError(f"{name} {options[name]}", "is not a share", 'with rounds give one, as "40%"')
        changes[name] = f"{100 * limit.value ** (1 / rounds)}%" if limit.is_share else options[name]
    return changes


def in_rounds(
    model: nn.Module,
    rounds: int,
    prune: Callable[[nn.Module], SlimResult],
    tune: Callable[[nn.Module], object],
) -> SlimResult:
    """Prune and train by turns.

    Args:
        model: the network.
        rounds: how often, from 1.
        prune: a network -> the result of a round.
        tune: trains the network of a round, in place.

    Returns:
        The network of the last round, trained; its plan and report are of all rounds together.
    """
    found: list[SlimResult] = []
    for _ in range(rounds):
        found.append(prune(found[-1].model if found else model))
        tune(found[-1].model)
    report = _together([result.report for result in found])
    return SlimResult(found[-1].model, _composed([result.plan for result in found]), report)


def _composed(plans: Sequence[Plan]) -> Plan:
    """One plan for what several plans after each other keep."""
    kept: dict[str, UnitMask] = {}
    for plan in plans:
        for name, mask in plan.kept.items():
            before = kept.get(name)
            if before is None:
                kept[name] = mask
            else:
                kept[name] = before.copy()
                kept[name][np.flatnonzero(before)[~mask]] = False
    attributes: dict[str, tuple[Any, Any]] = {}
    for plan in plans:
        for name, (old, new) in plan.attributes.items():
            attributes[name] = (attributes[name][0] if name in attributes else old, new)
    return replace(plans[0], kept=kept, attributes=attributes)


def _together(reports: Sequence[SlimReport]) -> SlimReport:
    """The report of the last round, with the sizes before the first one."""
    first, last = reports[0], reports[-1]
    before = {layer.name: layer.before for layer in first.layers}
    layers = tuple(replace(layer, before=before.get(layer.name, layer.before)) for layer in last.layers)
    seconds = {name: sum(report.seconds[name] for report in reports) for name in last.seconds}
    return replace(
        last,
        layers=layers,
        parameters=(first.parameters[0], last.parameters[1]),
        macs=(first.macs[0], last.macs[1]),
        difference=max(report.difference for report in reports),
        unfolded=tuple(dict.fromkeys(name for report in reports for name in report.unfolded)),
        seconds=seconds,
    )
