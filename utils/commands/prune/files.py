"""The files of a pruning run: proven, measured, reported, and only then named.

Invariant: a file gets its final name only when every line of the equality ledger has passed, and all files of
a run get theirs together.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...darknet.model import Darknet
from ...detection.evaluator import Evaluation
from ...files import atomic_paths, protect_inputs
from ...pruning.report import PruningReport
from ...reporting.page import CheckRow, Page, write_page
from ..arguments import arguments, provenance, write_json
from ..inputs import open_files
from ..results import plain, quoted
from . import stages
from .job import Job
from .ledger import compare_files
from .outcome import Outcome
from .page import cards, class_rows, network_page
from .samples import SAMPLES_NOTE, samples


def write_outcome(job: Job, outcome: Outcome) -> tuple[PruningReport, str]:
    """Write the job's files.

    Returns:
        The report, and the command that one would type next.

    Raises:
        PruningError: a line of the ledger failed; nothing was written.
    """
    args = job.args
    with atomic_paths(*job.outputs.written(args.report)) as (cfg, weights, data, *page):
        outcome.saved.save(cfg, weights)
        reloaded = open_files(cfg, weights).to(job.device).eval()
        checks = compare_files(outcome.ledger, outcome.saved.model, reloaded, full=args.verify == "full")
        outcome = replace(outcome, ledger=replace(outcome.ledger, checks=(*outcome.ledger.checks, *checks)))
        found = stages.evaluations(job, {**outcome.networks, outcome.written: reloaded})
        report = _report(job, outcome, reloaded, found)
        shown = _page(job, outcome, reloaded, found, report)
        write_json(data, provenance(args) | report.to_json() | _beside(job, shown, found))
        if page:
            write_page(page[0], _with_samples(job, shown, reloaded, found))
        moved = protect_inputs([job.outputs.cfg, job.outputs.weights], job.inputs)
    if not args.report:  # the page of a run before would show other figures than these files
        job.outputs.page.unlink(missing_ok=True)
    return report, _next(job, moved)


def _beside(job: Job, page: Page, found: Mapping[str, Evaluation | None]) -> dict[str, object]:
    """What the page shows and the report does not hold: the score, each section's costs, AP by class."""
    costs = ("group", "parameters", "macs", "milliseconds")
    rows = [{"index": row.index} | {name: getattr(row, name) for name in costs} for row in page.sections]
    by_class = {stage: figures.per_class for stage, figures in found.items() if figures is not None}
    return {"score": job.score, "costs": plain(rows), "per_class": by_class}


def _report(
    job: Job, outcome: Outcome, reloaded: Darknet, found: Mapping[str, Evaluation | None]
) -> PruningReport:
    map50 = {stage: None if figures is None else figures.map50 for stage, figures in found.items()}
    timing = outcome.timing or stages.timing(job, job.model, reloaded)
    return PruningReport(
        strategy=Path(job.args.command.split()[1]).stem,
        arguments=arguments(job.args),
        image_size=job.image_size,
        before=stages.figures(job, job.model, map50["before"], timing.before),
        after=stages.figures(job, reloaded, map50[outcome.written], timing.after),
        timed_on=timing.runtime,
        map50=map50,
        sections=outcome.sections,
        ledger=outcome.ledger.checks,
        threshold=outcome.threshold,
        removed_blocks=outcome.removed_blocks,
        notes=outcome.notes,
    )


def _page(
    job: Job,
    outcome: Outcome,
    reloaded: Darknet,
    found: Mapping[str, Evaluation | None],
    report: PruningReport,
) -> Page:
    page = network_page(
        job.model,
        reloaded,
        job.subject.graph,
        outcome.scores,
        outcome.sections,
        outcome.removed_blocks,
        job.image_size,
        title=job.outputs.cfg.stem,
        threshold=outcome.threshold,
        candidates=outcome.candidates,
        timed=not job.args.no_eval,
    )
    size = f"{job.image_size[1]}×{job.image_size[0]}"
    written = ", ".join(str(path) for path in job.outputs.written(False))
    before, *_, after = found.values()
    return replace(
        page,
        facts=[("command", job.args.command), ("image size", size), ("written", written)],
        score=job.score,
        merge=outcome.merge,
        cards=cards(report.before, report.after, report.timed_on),
        stages=list(report.map50.items()),
        checks=[CheckRow(c.name, c.difference, c.tolerance, c.note) for c in report.ledger],
        notes=report.notes,
        classes=() if before is None or after is None else class_rows(before, after),
    )


def _with_samples(job: Job, page: Page, reloaded: Darknet, found: Mapping[str, Evaluation | None]) -> Page:
    if None in found.values() or job.validation is None or job.data is None:
        return page
    pictures = samples(job.model, reloaded, job.validation, job.data.names)
    return replace(page, samples=pictures, samples_note=SAMPLES_NOTE)


def _next(job: Job, moved: Mapping[Path, Path]) -> str:
    """Fine-tuning with the unpruned network as teacher; after that, and without a data set, the export."""
    outputs, data = job.outputs, job.project.data
    size = "--img_size {} {}".format(*job.args.img_size) if job.args.img_size else ""
    network = f"--cfg {quoted(outputs.cfg)} --weights {quoted(outputs.weights)} {size}".rstrip()
    if data is None:
        return f"python export.py {network}"
    if getattr(job.args, "iterative", 1) > 1:
        return f"python evaluate.py {network} --data {quoted(data)}"

    def where(path: Path) -> str:
        return quoted(moved.get(path.resolve(), path))

    teacher = f"--t_weights {where(job.project.needed('weights'))}"
    if job.project.cfg is not None:
        teacher = f"--t_cfg {where(job.project.cfg)} {teacher}"
    return f"python train.py {network} --data {quoted(data)} {teacher}"
