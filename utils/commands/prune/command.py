"""What all pruning scripts do: load, prune, prove, measure, write, report.

The strategy itself is a list of policies that the script hands in.
"""

import argparse
from collections.abc import Sequence

from ...pruning.report import PruningReport
from ...pruning.subject import Policy
from ..arguments import next_command, prepare
from . import tables
from .budget import within_budget
from .explain import explain_section, show_what_if
from .files import write_outcome
from .iterative import run_rounds
from .job import open_job
from .options import budget_tag, has_budget, prune_parser
from .outcome import outcome_of, pruned

__all__ = ["prune_parser", "run_pruning"]


def run_pruning(args: argparse.Namespace, policies: Sequence[Policy], tag: str) -> PruningReport | None:
    """Prune as `args` and `policies` say; writes `tag`_... files and prints the table.

    Returns:
        The report; None where the user only asked a question (--what-if, --explain).

    Raises:
        ToolkitError: something given cannot be used.
    """
    device = prepare(args)
    if args.what_if is not None:
        show_what_if(args)
        return None
    job = open_job(args, device, budget_tag(args) if has_budget(args) else tag)
    if getattr(args, "iterative", 1) > 1:
        outcome = run_rounds(job)
    else:
        budget = within_budget(job) if has_budget(args) else None
        result = pruned(job, policies, budget)
        if args.explain is not None:
            explain_section(job.subject, result, args.explain)
            return None
        outcome = outcome_of(job, result, budget)
    report, following = write_outcome(job, outcome)
    tables.pruning(report, f"{job.outputs.cfg.stem} at {job.image_size[1]}x{job.image_size[0]}")
    print("written: " + ", ".join(str(path) for path in job.outputs.written(args.report)))
    next_command(following)
    return report
