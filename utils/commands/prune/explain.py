"""Questions that write nothing: why a channel is removed (--explain), what would be left (--what-if)."""

from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from ...darknet.network import Network, section_costs
from ...errors import PruningError
from ...frontends.darknet.subject import narrowed_network, section_index, trace
from ...pruning.explain import Verdict, explain, why, writers
from ...pruning.policies import groups, keep_best
from ...pruning.subject import ChannelPlan
from ..arguments import prepare, resolve
from ..output import multiply_adds, show
from .budget import within_budget
from .job import open_job
from .options import PruningOptions
from .run import prune_network


def show_explanation(options: PruningOptions, index: int) -> None:
    """Print why the channels of section `index` are removed or kept.

    Raises:
        ToolkitError: something given cannot be used, the section is not a convolution, or the strategy
            removes no channels.
    """
    job = open_job(options, prepare(options))
    budget = within_budget(job) if options.has_budget else None
    subject, result = job.subject, prune_network(job, options.policies, budget)
    plans = [plan for plan in result.plans if isinstance(plan, ChannelPlan)]
    name = next((name for name in subject.graph.layers if section_index(name) == index), None)
    if name is None:
        raise PruningError(
            f"--explain {index}", "not a convolution", "name one of those that doctor.py lists"
        )
    if not plans:
        raise PruningError(
            "--explain", "this strategy removes whole blocks, not channels", "use slim_prune.py"
        )
    plan = plans[0]
    verdict = Verdict(subject.graph, result.scores, plan, result.keep, result.carried)
    table = Table()
    for column in ("channels", "numbers", "score", "reason"):
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
    show(f"{place}: {kept} of {len(subject.graph.layers[name].outputs)} channels kept{threshold}", table)
    others = [_place(subject.network, other) for other in writers(subject.graph, name) if other != name]
    if others:
        print("writes to the same channels as", ", ".join(others))
    removed = [block.name for block in result.removed_blocks if name in block.layers]
    if removed:
        print(f"its block, {_place(subject.network, removed[0])}, is removed as a whole")


def show_what_if(options: PruningOptions, share: float) -> None:
    """Print what is left when the same share of every layer is removed; needs a cfg and no weights.

    Raises:
        ToolkitError: there is no cfg.
    """
    network = resolve(options, needs=["cfg"]).network()
    if options.img_size:
        network = network.resized(*options.img_size)
    graph = trace(network, keep_sections=options.keep_sections)
    wish = keep_best(graph, groups(graph), share)
    keep = graph.legal(wish, np.zeros(graph.unit_count), int(options.align or 1), options.min_channels)
    narrow = narrowed_network(network, graph, keep)
    table = Table()
    for column in ("", "before", "after", "left"):
        table.add_column(column, justify="right" if column else "left")
    before, after = (_costs(each) for each in (network, narrow))
    for name, old, new in zip(("parameters", "MACs"), before, after, strict=True):
        text = multiply_adds if name == "MACs" else "{:,}".format
        table.add_row(name, text(old), text(new), f"{100 * new / old:.1f} %")
    removed = f"with {share:.0%} of every layer removed"
    title = f"{network.source} at {network.width}x{network.height}, {removed}"
    show(title, table)


def _costs(network: Network) -> tuple[int, int]:
    costs = section_costs(network)
    return sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)


def _place(network: Network, text: str) -> str:
    """A layer name as the section of the cfg; in other text, layer names as section numbers."""
    if text.startswith("layers.") and " " not in text:
        return network.place(section_index(text))
    return text.replace("layers.", "#")


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, runs abbreviated.

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
