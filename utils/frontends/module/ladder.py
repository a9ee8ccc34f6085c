"""A ladder for any network: pruned by one ratio after another, each evaluated as it is cut."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.costs import count_parameters
from ...pruning.knee import knee
from .inputs import unwrapped
from .slim import slim


@dataclass(frozen=True)
class Rung:
    """The network pruned by one ratio.

    Attributes:
        ratio: share of the channels that was asked for, 0..1; 0 is the unpruned network.
        value: what `evaluate` returned.
        parameters: that are left.
        macs: multiply-adds of one example in layers; 0 for the unpruned network if nothing was pruned.
    """

    ratio: float
    value: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class SlimLadder:
    """Rungs in ascending order of their ratios; prints itself as a table."""

    rungs: tuple[Rung, ...]

    def knee(self, tolerance: float = 0.01) -> float:
        """The largest ratio whose value is at most `tolerance` below that of the unpruned network; else 0."""
        return knee({rung.ratio: rung.value for rung in self.rungs}, tolerance)

    def __str__(self) -> str:
        whole = self.rungs[0]
        lines = ["ratio   value  parameters        multiply-adds"]
        for rung in self.rungs:
            parameters, macs = rung.parameters / whole.parameters, rung.macs / max(1, whole.macs)
            sizes = f"{rung.parameters:>11,} {parameters:6.1%}  {rung.macs:>14,} {macs:6.1%}"
            lines.append(f"{rung.ratio:5.0%}  {rung.value:6.4g}  {sizes}")
        return "\n".join(lines)


def ladder(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    ratios: Iterable[float],
    evaluate: Callable[[nn.Module], float],
    **options: Any,
) -> SlimLadder:
    """Prune `model` by each of several ratios and evaluate every result as it is, before any training.

    Args:
        model: the network; unchanged.
        example_inputs: (1, ...) an input, or several as `slim` takes them.
        ratios: shares of the channels to remove, each from 0 to below 1.
        evaluate: of a network in evaluation mode, such as its accuracy; higher is better.
        options: of `slim`, such as score, exclude and recalibrate; `verify` is "quick" unless given.

    Raises:
        PruningError: as `slim`, or no ratio above 0 is given.
    """
    wanted = sorted({float(ratio) for ratio in ratios} - {0.0})
    if not wanted:
        raise PruningError("ratios", "has none above 0", "give several, such as (0.2, 0.4, 0.6)")
    options = {"verify": "quick", **options}
    if not isinstance(options.get("recalibrate", ()), Sequence):
        options["recalibrate"] = list(options["recalibrate"])  # each rung reads them
    network = unwrapped(model).eval()
    rungs = [Rung(0.0, float(evaluate(network)), count_parameters(network), 0)]
    for ratio in wanted:
        result = slim(network, example_inputs, ratio, **options)
        rungs[0] = replace(rungs[0], macs=result.report.macs[0])
        value = float(evaluate(result.model.eval()))
        rungs.append(Rung(ratio, value, result.report.parameters[1], result.report.macs[1]))
    return SlimLadder(tuple(rungs))
