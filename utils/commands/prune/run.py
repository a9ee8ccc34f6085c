"""Prune a network, prove the result, measure, report and write it: `prune(PruningOptions(...))`.

Nothing is printed.
Invariant: files are moved into place only after all checks pass, all files of a run together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...darknet.compatibility import darknet_findings
from ...darknet.model import Darknet
from ...detection.evaluator import Evaluation
from ...files import atomic_paths, protect_inputs
from ...frontends.darknet.subject import DarknetSubject, section_index
from ...pruning import surgery
from ...pruning.policies import Candidates
from ...pruning.report import PruningReport, SectionChange
from ...pruning.subject import ChannelPlan, LayerScores, Merge, Policy
from ...pruning.surgery import PruningResult
from ...reporting.page import CheckRow, Page, write_page
from ..arguments import prepare, provenance, write_json
from ..inputs import open_files
from ..output import Track, plain, quoted, untracked
from .budget import Budget, within_budget
from .job import Job, LatencyPair, OutputFiles, open_job
from .ledger import Ledger, compare_files, compare_in_memory
from .options import PruningOptions
from .page import SAMPLES_NOTE, cards, class_rows, network_page, samples

Evaluations = Mapping[str, Evaluation | None]  # by stage; None where mAP was not to be measured


@dataclass(frozen=True)
class PrunedNetwork:
    """A job's network after one pruning or several rounds, before anything is written.

    Attributes:
        saved: the network to write.
        ledger: the comparisons made so far.
        networks: the networks to evaluate, by stage: "before" first, then those on the way.
        stage: of the network to write.
        sections: every convolution before and after.
        scores: of the channels of the unpruned network.
        removed_blocks: numbers of the shortcuts whose blocks were removed.
        threshold: channels with a lower score were removed; None where no threshold was used.
        candidates: the channels that could be removed.
        merge: how layers whose outputs a shortcut adds decided together.
        latencies: before and after, where they were measured already.
        notes: what the user should know, a sentence each.
    """

    saved: DarknetSubject
    ledger: Ledger
    networks: Mapping[str, Darknet]
    stage: str
    sections: tuple[SectionChange, ...]
    scores: LayerScores
    removed_blocks: tuple[int, ...] = ()
    threshold: float | None = None
    candidates: Candidates = "all"
    merge: Merge = "union"
    latencies: LatencyPair | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruningOutcome:
    """What a pruning run wrote.

    Attributes:
        report: the figures; also in `files.report`.
        files: the written files.
        has_page: whether the HTML page is one of them.
        moved: input files that were renamed because an output has their name, old -> new.
        following: the command to type next.
    """

    report: PruningReport
    files: OutputFiles
    has_page: bool
    moved: Mapping[Path, Path]
    following: str


def prune_network(
    job: Job, policies: Sequence[Policy], budget: Budget | None = None
) -> PruningResult[DarknetSubject]:
    """Prune by `policies`, or to the mask of a budget."""
    options = job.options
    return surgery.prune(
        job.subject,
        [budget.policy] if budget else policies,
        job.scorer,
        folding=options.fold,
        rescore=options.classic,
        align=1 if budget else job.align,  # the budget's mask is aligned already
        min_channels=options.min_channels,
    )


def proven(job: Job, result: PruningResult[DarknetSubject], budget: Budget | None = None) -> PrunedNetwork:
    """Compare the networks of a pruning in memory, and recalibrate the compact one.

    Raises:
        PruningError: the compact network does not compute what the zeroed one does.
    """
    ledger = compare_in_memory(result)
    plans = [plan for plan in result.plans if isinstance(plan, ChannelPlan)]
    networks = {"before": job.model, "gamma_masked": result.masked.model, "folded": result.folded.model}
    images = job.options.images_to_recalibrate
    saved = job.recalibrated(result.compact, images)
    if images:
        networks["compact"] = result.compact.model
    notes = budget.notes if budget else job.alignment_notes(job.align)
    return PrunedNetwork(
        saved=saved,
        ledger=ledger,
        networks=networks,
        stage="recalibrated" if images else "compact",
        sections=_section_changes(job.subject, result),
        scores=result.scores,
        removed_blocks=tuple(section_index(block.name) for block in result.removed_blocks),
        threshold=next((plan.threshold for plan in plans), None),
        candidates=next((plan.candidates for plan in plans), "all"),
        merge=next((plan.merge for plan in plans), "union"),
        latencies=budget.latencies if budget else None,
        notes=(*notes, *job.recalibration_notes(), *pruning_notes(result)),
    )


def write(job: Job, pruned: PrunedNetwork) -> PruningOutcome:
    """Write the job's files.

    Raises:
        PruningError: a comparison failed; nothing was written.
    """
    options = job.options
    with atomic_paths(*job.outputs.written(options.report)) as (cfg, weights, data, *page):
        pruned.saved.save(cfg, weights)
        reloaded = open_files(cfg, weights).to(job.device).eval()
        checks = compare_files(pruned.ledger, pruned.saved.model, reloaded, full=options.verify == "full")
        pruned = replace(pruned, ledger=replace(pruned.ledger, checks=(*pruned.ledger.checks, *checks)))
        found = job.evaluated({**pruned.networks, pruned.stage: reloaded})
        report = _report(job, pruned, reloaded, found)
        shown = _page(job, pruned, reloaded, found, report)
        write_json(data, provenance(options) | report.to_json() | _beside(job, shown, found))
        if page:
            write_page(page[0], _with_samples(job, shown, reloaded, found))
        moved = protect_inputs([job.outputs.cfg, job.outputs.weights], job.inputs)
    if not options.report:  # the page of an earlier run would show other figures than these files
        job.outputs.page.unlink(missing_ok=True)
    return PruningOutcome(report, job.outputs, options.report, moved, _following(job, moved))


def _beside(job: Job, page: Page, found: Evaluations) -> dict[str, object]:
    """What the page shows and the report does not hold: the score, each section's costs, AP by class."""
    costs = ("group", "parameters", "macs", "milliseconds")
    rows = [{"index": row.index} | {name: getattr(row, name) for name in costs} for row in page.sections]
    by_class = {stage: figures.per_class for stage, figures in found.items() if figures is not None}
    return {"score": job.score, "costs": plain(rows), "per_class": by_class}


def _report(job: Job, pruned: PrunedNetwork, reloaded: Darknet, found: Evaluations) -> PruningReport:
    map50 = {stage: None if figures is None else figures.map50 for stage, figures in found.items()}
    latencies = pruned.latencies or job.latencies(job.model, reloaded)
    return PruningReport(
        strategy=job.options.strategy,
        arguments=job.options.to_json(),
        image_size=job.image_size,
        before=job.figures(job.model, map50["before"], latencies.before),
        after=job.figures(reloaded, map50[pruned.stage], latencies.after),
        timed_on=latencies.runtime,
        map50=map50,
        sections=pruned.sections,
        ledger=pruned.ledger.checks,
        threshold=pruned.threshold,
        removed_blocks=pruned.removed_blocks,
        notes=pruned.notes,
    )


def _page(
    job: Job, pruned: PrunedNetwork, reloaded: Darknet, found: Evaluations, report: PruningReport
) -> Page:
    page = network_page(
        job.subject,
        reloaded,
        pruned.scores,
        pruned.sections,
        pruned.removed_blocks,
        job.image_size,
        candidates=pruned.candidates,
        timed=not job.options.no_eval,
    )
    command = [("command", job.options.command)] if job.options.command else []
    size = f"{job.image_size[1]}×{job.image_size[0]}"
    written = ", ".join(str(path) for path in job.outputs.written(False))
    before, *_, after = found.values()
    return replace(
        page,
        title=job.outputs.cfg.stem,
        threshold=pruned.threshold,
        facts=[*command, ("image size", size), ("written", written)],
        score=job.score,
        merge=pruned.merge,
        cards=cards(report.before, report.after, report.timed_on),
        stages=list(report.map50.items()),
        checks=[CheckRow(c.name, c.difference, c.tolerance, c.note) for c in report.ledger],
        notes=report.notes,
        classes=() if before is None or after is None else class_rows(before, after),
    )


def _with_samples(job: Job, page: Page, reloaded: Darknet, found: Evaluations) -> Page:
    if None in found.values() or job.validation is None or job.data is None:
        return page
    pictures = samples(job.model, reloaded, job.validation, job.data.names, track=job.track)
    return replace(page, samples=pictures, samples_note=SAMPLES_NOTE)


def _following(job: Job, moved: Mapping[Path, Path]) -> str:
    """Fine-tuning with the unpruned network as teacher; after that, and without a data set, the export."""
    outputs, data, options = job.outputs, job.project.data, job.options
    size = "--img_size {} {}".format(*options.img_size) if options.img_size else ""
    network = f"--cfg {quoted(outputs.cfg)} --weights {quoted(outputs.weights)} {size}".rstrip()
    if data is None:
        return f"python export.py {network}"
    if options.iterative > 1:
        return f"python evaluate.py {network} --data {quoted(data)}"

    def where(path: Path) -> str:
        return quoted(moved.get(path.resolve(), path))

    teacher = f"--t_weights {where(job.project.needed('weights'))}"
    if job.project.cfg is not None:
        teacher = f"--t_cfg {where(job.project.cfg)} {teacher}"
    return f"python train.py {network} --data {quoted(data)} {teacher}"


def _section_changes(
    subject: DarknetSubject, result: PruningResult[DarknetSubject]
) -> tuple[SectionChange, ...]:
    """Every convolution before and after."""
    removed = {name for block in result.removed_blocks for name in block.layers}
    changes = []
    for name, layer in subject.graph.layers.items():
        mask = result.keep[layer.outputs]
        changes.append(SectionChange(section_index(name), mask & (name not in removed), name in removed))
    return tuple(changes)


def pruning_notes(result: PruningResult[DarknetSubject]) -> Iterator[str]:
    """What the user should know about a pruning, a sentence each."""
    emptied = [name for plan in result.plans if isinstance(plan, ChannelPlan) for name in plan.emptied]
    if emptied:
        fact = "all channels of these sections are below the threshold; kept the best one of each"
        yield f"{fact}: {_list(emptied)}"
    if result.restored:
        fact = "channels were restored to keep the network valid or widths as requested"
        yield f"{fact}, in sections {_list(result.restored)}"
    if result.unfolded:
        yield f"constants of removed channels could not be folded in sections {_list(result.unfolded)}"
    if result.bordered:
        layers = result.folded.graph.layers
        grouped = {name: " (grouped)" * (layers[name].groups > 1) for name in result.bordered}
        where = ", ".join(f"{section_index(name)}{how}" for name, how in grouped.items())
        yield f"not exact at image borders in sections {where}: no channel there can carry the constants"
    if result.carried.any():
        fact = "removable channels were kept to carry the constants of the removed ones to image borders"
        yield f"{int(result.carried.sum())} {fact}"
    # A shortcut may only now be narrower than Darknet expects.
    yield from map(str, darknet_findings(result.compact.network))


def _list(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(str(section_index(name)) for name in names)


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
        from .iterative import run_rounds

        return write(job, run_rounds(job, observer))
    budget = within_budget(job) if options.has_budget else None
    result = prune_network(job, options.policies, budget)
    return write(job, proven(job, result, budget))
