"""What all pruning scripts do: load, prune, prove, measure, write, report.

The strategy itself is a list of policies that the script hands in.
"""

import argparse
from collections.abc import Sequence

from utils.commands import pruning_tables as tables
from utils.commands.arguments import next_command, prepare
from utils.commands.budgets import within_budget
from utils.commands.explain import explain_section, show_what_if
from utils.commands.iterative import run_rounds
from utils.commands.pruning_files import write_outcome
from utils.commands.pruning_job import open_job
from utils.commands.pruning_options import budget_tag, has_budget, prune_parser
from utils.commands.pruning_outcome import outcome_of, pruned
from utils.pruning.report import PruningReport
from utils.pruning.subject import Policy

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
