"""The tables that commands end with."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from utils.pruning.report import PruningReport


def pruning(report: PruningReport, title: str) -> None:
    """Before / gamma_masked / folded / compact, what was removed, and the proof."""
    before, after = report.before, report.after
    table = Table()
    for column in ("", "before", "gamma_masked", "folded", "compact", "change"):
        table.add_column(column, justify="right" if column else "left")
    if before.map50 is not None and after.map50 is not None:
        stages = (before.map50, report.masked_map50, report.folded_map50, after.map50)
        table.add_row(
            "mAP@0.5", *(percent(value) for value in stages), f"{100 * (after.map50 - before.map50):+.2f}"
        )
    _row(table, "parameters", before.parameters, after.parameters, lambda value: f"{value:,.0f}")
    _row(table, "MACs", before.macs, after.macs, _multiply_adds)
    _row(table, ".weights size", before.file_size, after.file_size, _mebibytes)
    if before.latency is not None and after.latency is not None:
        _row(table, "latency p50", before.latency.p50, after.latency.p50, _milliseconds)
        _row(table, "latency p95", before.latency.p95, after.latency.p95, _milliseconds)
    show(title, table)
    for line in _summary(report):
        print(line)


def show(title: str, table: Table) -> None:
    """Print a table under its title; the title is not broken to the width of a narrow table."""
    print(title)
    Console().print(table)


def percent(fraction: float | None) -> str:
    """A fraction as per cent with two decimals; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _multiply_adds(value: float) -> str:
    return f"{value / 1e9:.3f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:.2f} MiB"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms"


def _row(table: Table, name: str, before: float, after: float, show: Callable[[float], str]) -> None:
    table.add_row(name, show(before), "", "", show(after), f"{after / before:.1%} left")


def _summary(report: PruningReport) -> Sequence[str]:
    changed = [section for section in report.sections if not section.removed and not section.mask.all()]
    total = sum(len(section.mask) for section in report.sections)
    kept = sum(int(section.mask.sum()) for section in report.sections)
    lines = [f"{kept:,} of {total:,} filters kept, {len(changed)} sections narrowed"]
    if report.removed_blocks:
        shortcuts = ", ".join(map(str, report.removed_blocks))
        lines.append(f"{len(report.removed_blocks)} blocks removed: shortcuts {shortcuts}")
    if report.threshold is not None:
        lines.append(f"threshold: {report.threshold:.6g}")
    equality = report.equality
    lines.append(
        f"largest difference of raw heads in float64: zeroed / compact {equality.zeroed_vs_compact:.1e}, "
        f"reloaded / compact {equality.reloaded_vs_compact:.1e}"
    )
    if latency := report.after.latency:
        how = f"threads {latency.threads}, {latency.rounds} interleaved rounds"
        lines.append(f"latency: torch, batch 1, batch norms folded, {how}")
    return [*lines, *(f"note: {note}" for note in report.notes)]
