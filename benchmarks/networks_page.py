"""docs/results/networks.md: the table of benchmarks/networks.py as Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

INTRODUCTION = """# The networks of `examples/`, pruned

Made by `python benchmarks/networks.py --page docs/results/networks.md`; figures: `benchmarks/networks.csv`.
Random weights and spread-out norms: none of this says anything about accuracy. Filters by score "l1", the
selecting network's by "gamma"; widths are multiples of 8 where not all of a layer is kept. Made with
{versions}.
"""
PROOFS = """## Proofs

*units*: sets of channels that stay or go together; *pinned* ones stay in any case. *exact*: largest
difference between the pruned network and the full-size one with the removed channels at zero and their
constants folded, over the largest output, in float64. *ONNX*: between onnxruntime and torch, float32, over
the largest output.
"""
SIZES = "## Sizes\n\nMultiply-adds of one image, of convolutions and linear layers.\n"
TIMES = """## Milliseconds

A batch on one thread of the processor, before → after, medians of interleaved
rounds, and the speed-up.
"""
PUBLISHED = """## Beside what their authors published

Their figures are of other machines, and their networks of other code. MODNet's range spans several shares;
its times here, too, are of one image. At 0.8, 257,000 of MobileNetV2's parameters are those of the
classifier: 1,000 classes from 256 channels.

| network | published | here |
|---|---|---|
"""
# what is published -> (network, ratio) of the figures here
AUTHORS = (
    ("MobileNetV2, 512 px", "3.5 M → 310 k parameters at 0.8", ("mobilenetv2 512", 0.8)),
    ("MODNet, 512 px", "6.45 M → 3.4 .. 4.9 M parameters, 0.82 → 0.68 s", ("modnet", 0.3)),
    ("MODNet, 512 px, backbone alone", "the same", ("modnet, backbone, follow", 0.5)),
    ("MODNet, 512 px, backbone alone, interface kept", "the same", ("modnet, backbone, keep", 0.5)),
)


@dataclass(frozen=True)
class Row:
    """A line of the CSV file.

    Attributes:
        network: key of CASES.
        size: height and width of the images.
        ratio: share of the channels that was to go.
        units, pinned: how many.
        reasons: why they are pinned, with how many each, joined by "; ".
        not_followed: operations whose channels could not be followed, joined by "; ".
        difference: pruned from zeroed, over the largest output, float64.
        onnx: onnxruntime from torch, the same in float32.
        parameters, parameters_after, macs, macs_after: of one image.
        torch_1 .. onnx_1_after: ms at batch 1, 8, 64.
    """

    network: str
    size: int
    ratio: float
    units: int
    pinned: int
    reasons: str
    not_followed: str
    difference: float
    onnx: float
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int
    torch_1: float
    torch_1_after: float
    torch_8: float
    torch_8_after: float
    torch_64: float
    torch_64_after: float
    onnx_1: float
    onnx_1_after: float


def page(rows: Sequence[Row]) -> str:
    """The page, from the lines of the CSV file."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    kinds = ("torch_1", "torch_8", "torch_64", "onnx_1")
    titles = ["torch, batch 1", "torch, batch 8", "torch, batch 64", "onnxruntime, batch 1"]
    parts = [
        INTRODUCTION.format(versions=versions),
        PROOFS,
        *_table(rows, ["units", "pinned", "exact", "ONNX", "not followed"], _proofs),
        *["", "Pinned:", ""],
        *_reasons(rows),
        *["", SIZES],
        *_table(rows, ["px", "parameters", "share", "multiply-adds", "share"], _sizes),
        *["", TIMES],
        *_table(rows, titles, lambda row: [_times(row, kind) for kind in kinds]),
    ]
    return "\n".join(parts) + "\n\n" + PUBLISHED + "\n".join(_published(rows)) + "\n"


def _table(rows: Sequence[Row], titles: Sequence[str], cells: Callable[[Row], list[str]]) -> list[str]:
    lines = [f"| network | ratio | {' | '.join(titles)} |", f"|---|---:|{'---:|' * len(titles)}"]
    return lines + [f"| {row.network} | {row.ratio} | {' | '.join(cells(row))} |" for row in rows]


def _proofs(row: Row) -> list[str]:
    figures = [f"{row.difference:.1e}", f"{row.onnx:.1e}"]
    return [f"{row.units:,}", f"{row.pinned:,}", *figures, row.not_followed or "nothing"]


def _reasons(rows: Sequence[Row]) -> list[str]:
    reasons = {row.network: row.reasons for row in rows}
    return [f"- {name}: {text}" for name, text in reasons.items()]


def _sizes(row: Row) -> list[str]:
    pairs = ((row.parameters, row.parameters_after), (row.macs, row.macs_after))
    shown = ((f"{before:,} → {after:,}", f"{after / before:.1%}") for before, after in pairs)
    return [str(row.size), *(text for pair in shown for text in pair)]


def _times(row: Row, kind: str) -> str:
    before, after = getattr(row, kind), getattr(row, f"{kind}_after")
    return f"{before:.3g} → {after:.3g} ({before / after:.2f}x)"


def _published(rows: Sequence[Row]) -> list[str]:
    here = {(row.network, row.ratio): row for row in rows}
    lines = []
    for name, published, key in AUTHORS:
        row = here.get(key)
        if row is not None:
            text = f"{row.parameters:,} → {row.parameters_after:,} at {row.ratio}"
            lines.append(f"| {name} | {published} | {text}, {_times(row, 'torch_1')} ms |")
    return lines
