"""The table that a pruning run ends with."""

from collections.abc import Callable, Sequence

from rich.table import Table

from ...pruning.report import PruningReport
from ..tables import mebibytes, milliseconds, multiply_adds, percent, show

# so that the table fits into 80 columns
_BROKEN = {
    "gamma_masked": "gamma_\nmasked",
    "recalibrated": "recali-\nbrated",
    "last_pruned": "last\npruned",
    "fine_tuned": "fine-\ntuned",
}


def pruning(report: PruningReport, title: str) -> None:
    """Before / gamma_masked / folded / compact / recalibrated, what was removed, and the proof."""
    before, after = report.before, report.after
    table = Table()
    stages = list(report.map50)
    for column in ("", *(_BROKEN.get(stage, stage) for stage in stages), "change"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    if before.map50 is not None and after.map50 is not None:
        change = f"{100 * (after.map50 - before.map50):+.2f}"
        table.add_row("mAP@0.5", *(percent(value) for value in report.map50.values()), change)

    def row(name: str, old: float, new: float, text: Callable[[float], str]) -> None:
        between = [""] * (len(stages) - 2)
        table.add_row(name, text(old), *between, text(new), f"{new / old:.1%}")

    row("parameters", before.parameters, after.parameters, lambda value: f"{value:,.0f}")
    row("MACs", before.macs, after.macs, multiply_adds)
    row(".weights size", before.file_size, after.file_size, mebibytes)
    if before.latency is not None and after.latency is not None:
        row("latency p50", before.latency.p50, after.latency.p50, milliseconds)
        row("latency p95", before.latency.p95, after.latency.p95, milliseconds)
    show(title, table)
    for line in _summary(report):
        print(line)


def _summary(report: PruningReport) -> Sequence[str]:
    changed = [section for section in report.sections if not section.removed and not section.mask.all()]
    total = sum(len(section.mask) for section in report.sections)
    kept = sum(int(section.mask.sum()) for section in report.sections)
    lines = [f"{kept:,} of {total:,} filters kept, {len(changed)} sections narrowed"]
    if report.removed_blocks:
        shortcuts = ", ".join(map(str, report.removed_blocks))
        count, s = len(report.removed_blocks), "s" if len(report.removed_blocks) > 1 else ""
        lines.append(f"{count} block{s} removed: shortcut{s} {shortcuts}")
    if report.threshold is not None:
        lines.append(f"threshold: {report.threshold:.6g}")
    lines.append("largest difference of outputs over the largest output:")
    lines += [f"  {check}" for check in report.ledger]
    if latency := report.after.latency:
        how = f"threads {latency.threads}, {latency.rounds} interleaved rounds"
        lines.append(f"latency: {report.timed_on}, batch 1, batch norms folded, {how}")
    return [*lines, *(f"note: {note}" for note in report.notes)]
