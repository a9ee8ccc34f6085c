"""What all pruning scripts do: load, prune, prove, measure, write, report.

The strategy itself is a list of policies that the script hands in.

Invariant: a file gets its final name only when every line of the equality ledger has passed.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from utils.commands import pruning_stages as stages
from utils.commands import pruning_tables as tables
from utils.commands.arguments import arguments, next_command, prepare, provenance, write_json
from utils.commands.budgets import budget_policies
from utils.commands.explain import explain_section, show_what_if
from utils.commands.iterative import run_iterative
from utils.commands.ledger import compare_files, compare_in_memory
from utils.commands.project import open_files
from utils.commands.pruning_job import Job, open_job
from utils.commands.pruning_options import budget_tag, has_budget, prune_parser
from utils.commands.pruning_page import cards, class_rows, network_page
from utils.commands.pruning_samples import SAMPLES_NOTE, samples
from utils.commands.results import quoted
from utils.darknet.model import Darknet
from utils.detection.evaluator import Evaluation
from utils.files import atomic_path, protect_inputs
from utils.frontends.darknet import DarknetSubject, section_index
from utils.pruning.report import Check, PruningReport
from utils.pruning.subject import ChannelPlan, Policy
from utils.pruning.surgery import PruningResult, prune
from utils.reporting.page import CheckRow, Page, write_page

__all__ = ["prune_parser", "run_pruning"]
Result = PruningResult[DarknetSubject]


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
    if getattr(args, "iterative", 1) > 1:
        run_iterative(args, lambda one_round: run_pruning(one_round, policies, tag))
        return None
    job = open_job(args, device, budget_tag(args) if has_budget(args) else tag)
    told: tuple[str, ...] = ()
    if has_budget(args):
        policies, told = budget_policies(job, args.layer_keep)
    result = prune(
        job.subject,
        policies,
        job.scorer,
        folding=args.fold,
        rescore=args.classic,
        align=1 if has_budget(args) else job.align,  # the budget's mask is aligned already
        least=args.min_channels,
    )
    if args.explain is not None:
        explain_section(job.subject, result, args.explain)
        return None
    report = _prove_and_write(job, result, told)
    tables.pruning(report, f"{job.outputs.cfg.stem} at {job.image_size[1]}x{job.image_size[0]}")
    print("written: " + ", ".join(str(path) for path in job.outputs.written(args.report)))
    next_command(_next(job))
    return report


def _prove_and_write(job: Job, result: Result, told: tuple[str, ...]) -> PruningReport:
    """Everything after the cut; the files get their names at the end, all that was asked having passed."""
    ledger = compare_in_memory(result)
    saved = stages.recalibrated(job, result.compact, job.args.recalibrate)
    with ExitStack() as files:
        cfg, weights, data, *page = (
            files.enter_context(atomic_path(path)) for path in job.outputs.written(job.args.report)
        )
        saved.save(cfg, weights)
        reloaded = open_files(cfg, weights).to(job.device).eval()
        checks = compare_files(ledger, saved.model, reloaded, full=job.args.verify == "full")
        found = _evaluations(job, result, reloaded)
        report = _report(job, result, reloaded, found, (*ledger.checks, *checks))
        report = replace(report, notes=(*told, *report.notes))
        write_json(data, provenance(job.args) | report.to_json() | _beside(job, found))
        if page:
            write_page(page[0], _page(job, result, reloaded, found, report))
        protect_inputs([job.outputs.cfg, job.outputs.weights], job.inputs)
    return report


def _beside(job: Job, found: Mapping[str, Evaluation | None]) -> dict[str, object]:
    """What the page shows and the report does not hold: which score it was, AP@0.5 by stage and class."""
    by_class = {stage: figures.per_class for stage, figures in found.items() if figures is not None}
    return {"score": job.score, "per_class": by_class}


def _evaluations(job: Job, result: Result, reloaded: Darknet) -> dict[str, Evaluation | None]:
    """By stage, the written network last; None where mAP is not to be measured."""
    models = {"before": job.model, "gamma_masked": result.masked.model, "folded": result.folded.model}
    if job.args.recalibrate:
        models |= {"compact": result.compact.model, "recalibrated": reloaded}
    else:
        models["compact"] = reloaded
    return stages.evaluations(job, models)


def _report(
    job: Job,
    result: Result,
    reloaded: Darknet,
    found: Mapping[str, Evaluation | None],
    ledger: tuple[Check, ...],
) -> PruningReport:
    map50 = {stage: None if figures is None else figures.map50 for stage, figures in found.items()}
    latencies = stages.latencies(job, {"before": job.model, "after": reloaded})
    last = list(found)[-1]
    thresholds = [plan.threshold for plan in result.plans if isinstance(plan, ChannelPlan)]
    return PruningReport(
        strategy=Path(job.args.command.split()[1]).stem,
        arguments=arguments(job.args),
        image_size=job.image_size,
        before=stages.figures(job, job.model, map50["before"], latencies["before"]),
        after=stages.figures(job, reloaded, map50[last], latencies["after"]),
        map50=map50,
        sections=stages.section_changes(job.subject, result),
        ledger=ledger,
        threshold=thresholds[0] if thresholds else None,
        removed_blocks=tuple(section_index(block.name) for block in result.removed_blocks),
        notes=stages.notes(result),
    )


def _page(
    job: Job,
    result: Result,
    reloaded: Darknet,
    found: Mapping[str, Evaluation | None],
    report: PruningReport,
) -> Page:
    page = network_page(
        job.model,
        reloaded,
        job.subject.graph,
        result.scores,
        report.sections,
        report.removed_blocks,
        job.image_size,
        title=job.outputs.cfg.stem,
        threshold=report.threshold,
        candidates=next((plan.candidates for plan in result.plans if isinstance(plan, ChannelPlan)), "all"),
        timed=not job.args.no_eval,
    )
    size = f"{job.image_size[1]}×{job.image_size[0]}"
    written = ", ".join(str(path) for path in job.outputs.written(False))
    page = replace(
        page,
        facts=[("command", job.args.command), ("image size", size), ("written", written)],
        score=job.score,
        cards=cards(report.before, report.after),
        stages=list(report.map50.items()),
        checks=[CheckRow(c.name, c.difference, c.tolerance, c.note) for c in report.ledger],
        notes=report.notes,
    )
    before, *_, after = found.values()
    if before is None or after is None or job.validation is None or job.data is None:
        return page
    pictures = samples(job.model, reloaded, job.validation, job.data.names)
    return replace(page, classes=class_rows(before, after), samples=pictures, samples_note=SAMPLES_NOTE)


def _next(job: Job) -> str:
    """Fine-tuning with the unpruned network as teacher; without a data set, the export."""
    project, outputs = job.project, job.outputs
    network = f"--cfg {quoted(outputs.cfg)} --weights {quoted(outputs.weights)}"
    if project.data is None:
        return f"python export.py {network}"
    teacher = f"--t_weights {quoted(project.needed('weights'))}"
    if project.cfg is not None:
        teacher = f"--t_cfg {quoted(project.cfg)} {teacher}"
    return f"python train.py {network} --data {quoted(project.data)} {teacher}"
