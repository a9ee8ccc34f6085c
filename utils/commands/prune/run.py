"""Prune a network: `prune(PruningOptions(...))`, without printing anything.

>>> options = PruningOptions(strategy="layer_prune", shortcuts=8)
>>> options.policies
(WeakestBlocks(count=8),)
"""

from typing import TYPE_CHECKING

from ..arguments import prepare
from ..output import Track, untracked
from .budget import within_budget
from .job import open_job
from .options import PruningOptions
from .result import PruningOutcome, proven, prune_network, write

if TYPE_CHECKING:
    from ..train.run import RunObserver


def prune(
    options: PruningOptions, *, track: Track = untracked, observer: "RunObserver | None" = None
) -> PruningOutcome:
    """Open, prune, prove, measure, and write the cfg, the weights and the report.

    Args:
        options: what to prune and how.
        track: shows progress, see `Track`.
        observer: progress callbacks of the fine-tuning between rounds.

    Raises:
        ToolkitError: a file cannot be used, the network cannot be pruned as asked, or a check failed; then
            nothing was written.
    """
    job = open_job(options, prepare(options), track=track)
    if options.iterative > 1:
        from .iterative import run_rounds  # loads all of training

        return write(job, run_rounds(job, observer))
    budget = within_budget(job) if options.has_budget else None
    result = prune_network(job, options.policies, budget)
    return write(job, proven(job, result, budget))
