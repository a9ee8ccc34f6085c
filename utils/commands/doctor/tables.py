"""Tables and findings of the doctor, for 100 columns."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from ...cli import as_typed
from ...darknet.compatibility import RuntimeFinding, verdict
from ...darknet.heads import Head
from ...darknet.network import Network
from ...darknet.sections import Convolutional, Pool, Reorg3d, Route, Section, Shape, Upsample
from ...data.checks import DataCheck, SplitCheck
from ...detection.anchors import RECALL_AT
from ...errors import Finding
from ..output import show
from .checks import Anchors, Prunable
from .run import NetworkCheck

# With more classes than this only the rarest are shown; the JSON file has all.
SHOWN_CLASSES = 20
RAREST = 10
_MOST_COLUMNS = 100
_ORDER = ("error", "warning", "note")


def _table(*columns: str, left: Sequence[str] = (), dense: bool = False) -> Table:
    """An empty table; a dense one has no edge, and one space between columns instead of three."""
    padding = (0, 0 if dense else 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=not dense)
    for column in columns:
        if column in left:
            table.add_column(column)
        else:  # a number continues on the next line, as it must not lose its last digits
            table.add_column(column, justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: object) -> None:
    """A row of plain text: rich would take `[yolo]` for markup."""
    table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else as_typed(str(cell))) for cell in cells))


def print_sections(check: NetworkCheck) -> None:
    """One row for each section: kernel and stride, feature maps, costs."""
    network, costs, corrected = check.network, check.costs, check.corrected
    table = _table(
        "#",
        "section",
        "filters",
        "size",
        "input",
        "output",
        "parameters",
        "MACs",
        left=("section",),
        dense=True,
    )
    for index, (section, cost) in enumerate(zip(network.sections, costs, strict=True)):
        filters = str(section.filters) if isinstance(section, Convolutional) else ""
        if index in corrected:
            filters = f"{corrected[index]} -> {filters}"
        _add(
            table,
            index,
            section.kind,
            filters,
            _form(network, index, section),
            _inputs(network, index),
            _shape(network.shape(index)),
            cost.parameters or "",
            _macs(cost.macs) if cost.macs else "",
        )
    parameters, macs = (sum(values) for values in zip(*((c.parameters, c.macs) for c in costs), strict=True))
    size = _shape(network.shape(-1))
    costs_text = f"{parameters:,} parameters, {_macs(macs)} MACs"
    title = f"{network.source}: {len(network)} sections, input {size}, {costs_text}"
    show(title + ("; filters corrected where marked ->" if corrected else ""), table)
    print()


def _form(network: Network, index: int, section: Section) -> str:
    match section:
        case Convolutional():
            marks = [f"{section.size}x{section.size}/{_stride(section.stride)}"]
            if section.is_depthwise(network.input_channels(index)):
                marks.append("dw")
            elif section.groups > 1:
                marks.append(f"g{section.groups}")
            if section.dilation > 1:
                marks.append(f"d{section.dilation}")
            return " ".join(marks)
        case Pool():
            return f"{section.size}x{section.size}/{_stride(section.stride)}"
        case Upsample() | Reorg3d():
            return f"x{section.stride}"
        case Route() if section.groups > 1:
            return f"part {section.group_id} of {section.groups}"
        case Head():
            return f"{len(section.mask)} anchors"
        case _:
            return ""


def _stride(stride: tuple[int, int]) -> str:
    return str(stride[0]) if stride[0] == stride[1] else f"{stride[0]},{stride[1]}"


def _inputs(network: Network, index: int) -> str:
    """Size of the input map, or the numbers of the input sections where it is not just the one before."""
    sources = network.sources(index)
    if sources == (index - 1,):
        return _shape(network.shape(index - 1))
    return " ".join(f"#{source}" for source in sources)


def _shape(shape: Shape) -> str:
    """Width x height x channels, as Darknet prints it."""
    return f"{shape.width}x{shape.height}x{shape.channels}"


def _macs(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def print_prunable(prunable: Prunable) -> None:
    """Table of the prunable units, with reasons for the rest."""
    table = _table("pruning", "units", "", left=("pruning", ""))
    _add(table, "prunable by gamma", prunable.scored, "not pinned, followed by a batch norm")
    _add(table, "coupled", prunable.coupled, "by shortcuts: slim_prune.py prunes them too")
    _add(table, "pinned", prunable.pinned, "never removed:")
    for reason, count in prunable.reasons.items():
        _add(table, "", count, reason)
    rest = prunable.units - prunable.scored - prunable.pinned
    _add(table, "without gamma", rest, "no batch norm to score them by, so they are kept")
    _add(table, "residual blocks", prunable.blocks, "layer_prune.py can remove them")
    show(f"{prunable.units:,} prunable units (channels that are removed together)", table)


def print_runtimes(
    runtimes: Mapping[str, tuple[RuntimeFinding, ...]], written: tuple[RuntimeFinding, ...]
) -> None:
    """Table of the programs that can load the cfg, with reasons where they cannot."""
    table = _table("program", "cfg", "remarks", left=("program", "cfg", "remarks"))
    for name, findings in runtimes.items():
        _add(table, name, verdict(findings), "\n".join(_grouped(findings)))
    if written:
        why = ["as the file is written:", *_grouped(written), "cfgs written by this project avoid it"]
        _add(table, "OpenCV 4", verdict(written), "\n".join(why))
    show("Programs", table)


def _grouped(findings: Sequence[RuntimeFinding]) -> list[str]:
    """Equal facts once, with the sections they are about."""
    sections: dict[str, list[str]] = {}
    for finding in findings:
        where = [] if finding.section is None else [f"#{finding.section}"]
        sections.setdefault(finding.fact, []).extend(where)
    return [f"{_some(where)}: {fact}" if where else fact for fact, where in sections.items()]


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")


def print_data(check: DataCheck) -> None:
    """Images and objects of each split, and objects of each class."""
    if check.data is None or not check.splits:
        return
    names = [split.name for split in check.splits]
    table = _table("", *names, left=("",))
    for row, values in _split_rows(check.splits):
        _add(table, row, *values)
    show(f"{check.data.path}: {check.data.classes} classes", table)
    counts = [split.class_counts(check.data.classes) for split in check.splits]
    rows = list(zip(check.data.names, *counts, strict=True))
    title = "Objects of each class"
    if len(rows) > SHOWN_CLASSES:
        rows = sorted(rows, key=lambda row: row[1])[:RAREST]
        title = f"Objects of the {RAREST} rarest classes of {names[0]}"
    table = _table("class", *names, left=("class",))
    for name, *values in rows:
        _add(table, name, *values)
    show(title, table)


def _split_rows(splits: Sequence[SplitCheck]) -> list[tuple[str, list[object]]]:
    sizes = [[file.size for file in split.files.values() if file.size] for split in splits]
    return [
        ("images", [len(split.images) for split in splits]),
        ("objects", [len(split.objects) for split in splits]),
        ("objects per image", [f"{len(s.objects) / max(1, len(s.images)):.1f}" for s in splits]),
        ("images read", [len(split.files) for split in splits]),
        ("narrowest", [f"{min(w for _, w in found)}" if found else "" for found in sizes]),
        ("widest", [f"{max(w for _, w in found)}" if found else "" for found in sizes]),
    ]


def print_anchors(anchors: Anchors) -> None:
    """Fit of the anchors and of better ones, and the lines to paste for these."""
    thresholds = [f"recall at IoU {threshold:g}" for threshold in RECALL_AT]
    table = _table("anchors", "mean best IoU", *thresholds, left=("anchors",))
    for name, fit in (("of the cfg", anchors.current), ("by k-means", anchors.suggested)):
        _add(table, name, f"{fit.mean_iou:.3f}", *(f"{recall:.1%}" for recall in fit.recall))
    show(f"Fit of the anchors to the {anchors.objects:,} objects of {anchors.split}", table)
    print("by k-means, ready to paste:")
    for line in anchors.lines:
        print(f"anchors={line}")
    print()


def print_findings(findings: Sequence[Finding]) -> None:
    """The findings of the checks, errors first; those about programs are in a table of their own."""
    columns = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    listed = [finding for finding in findings if not isinstance(finding, RuntimeFinding)]
    for severity in _ORDER:
        for finding in listed:
            if finding.severity == severity:
                _print_finding(finding, columns)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _ORDER}
    print(f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}")


def _print_finding(finding: Finding, columns: int) -> None:
    print(f"{finding.severity:8} {finding.place}")
    examples = [("- ", example) for example in finding.examples]
    for mark, text in (("", finding.fact), *examples, ("-> ", finding.remedy)):
        if text:
            first, rest = " " * 9 + mark, " " * (9 + len(mark))
            wrapper = textwrap.TextWrapper(
                columns, first, rest, break_long_words=False, break_on_hyphens=False
            )
            print(wrapper.fill(as_typed(text)))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
