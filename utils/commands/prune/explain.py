"""Questions about a pruning that write nothing: why did a channel go, and what if a share of all went?"""

import argparse
from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from ...darknet.costs import section_costs
from ...darknet.network import Network
from ...errors import PruningError, ToolkitError
from ...frontends.darknet.subject import DarknetSubject, narrowed_network, section_index, trace
from ...pruning.explain import Verdict, explain, why, writers
from ...pruning.policies import groups, keep_best
from ...pruning.subject import ChannelPlan
from ...pruning.surgery import PruningResult
from ..arguments import Need, resolve
from ..tables import multiply_adds, show
from .refusals import refuse_beside_what_if

CFG_ONLY: tuple[Need, ...] = ("cfg",)


def explain_section(subject: DarknetSubject, result: PruningResult[DarknetSubject], index: int) -> None:
    """Print why the channels of section `index` went or stayed.

    Raises:
        PruningError: it has no channels of its own, or the strategy removes none.
    """
    plans = [plan for plan in result.plans if isinstance(plan, ChannelPlan)]
    name = next((name for name in subject.graph.layers if section_index(name) == index), None)
    if name is None:
        raise PruningError(
            f"--explain {index}", "is no convolution", "name one of those that doctor.py lists"
        )
    if not plans:
        raise PruningError(
            "--explain", "this strategy removes whole blocks, no channels", "use slim_prune.py"
        )
    plan = plans[0]
    verdict = Verdict(subject.graph, result.scores, plan, result.keep, result.carried)
    table = Table()
    for column in ("channels", "which", "score", "why"):
        table.add_column(column, justify="right" if column == "channels" else "left", overflow="fold")
    scores = result.scores.get(name)
    for reason in explain(verdict, name):
        because = ", ".join(_place(subject.network, text) for text in reason.because)
        span = ""
        if scores is not None:
            own = scores[list(reason.channels)]
            span = f"{own.min():.4g} .. {own.max():.4g}"
        text = why(reason.kind, plan.merge) + (f": {because}" if because else "")
        table.add_row(str(len(reason.channels)), _ranges(reason.channels), span, escape(text))
    kept = int(result.keep[subject.graph.layers[name].outputs].sum())
    place = subject.network.place(index)
    threshold = "" if plan.threshold is None else f", threshold {plan.threshold:.6g}"
    show(f"{place}: {kept} of {len(subject.graph.layers[name].outputs)} channels stay{threshold}", table)
    others = [_place(subject.network, other) for other in writers(subject.graph, name) if other != name]
    if others:
        print("writes to the same channels as", ", ".join(others))
    gone = [block.name for block in result.removed_blocks if name in block.layers]
    if gone:
        print(f"its block, {_place(subject.network, gone[0])}, goes as a whole")


def show_what_if(args: argparse.Namespace) -> None:
    """Print what is left when the same share of every layer goes; needs a cfg and no weights.

    Raises:
        ToolkitError: there is no cfg, or an option needs more than it or would do nothing.
    """
    refuse_beside_what_if(args)
    network = resolve(args, needs=CFG_ONLY).network()
    if args.img_size:
        network = network.resized(*args.img_size)
    if args.align == "auto":
        raise ToolkitError("--align auto", "asks a latency table, --what-if the cfg alone", "give a number")
    graph = trace(network, keep_sections=args.keep_sections)
    wish = keep_best(graph, groups(graph), args.what_if)
    keep = graph.legal(wish, np.zeros(graph.unit_count), args.align or 1, args.min_channels)
    narrow = narrowed_network(network, graph, keep)
    table = Table()
    for column in ("", "before", "after", "left"):
        table.add_column(column, justify="right" if column else "left")
    before, after = (_costs(each) for each in (network, narrow))
    for name, old, new in zip(("parameters", "MACs"), before, after, strict=True):
        text = multiply_adds if name == "MACs" else "{:,}".format
        table.add_row(name, text(old), text(new), f"{new / old:.1%}")
    title = f"{network.source} at {network.width}x{network.height}, if {args.what_if:.0%} of every layer went"
    show(title, table)


def _costs(network: Network) -> tuple[int, int]:
    costs = section_costs(network)
    return sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)


def _place(network: Network, text: str) -> str:
    """A layer's name as the cfg's section; other text with a section's number for a layer's name."""
    if text.startswith("layers.") and " " not in text:
        return network.place(section_index(text))
    return text.replace("layers.", "#")


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers, ascending, with runs drawn together.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7, 8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts[:12]) + (f", ... ({len(texts) - 12} more runs)" if len(texts) > 12 else "")
