"""docs/results/strangers.md: the table of benchmarks/strangers.py as Markdown."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.strangers import Row

INTRODUCTION = """# Networks of other packages

Networks that nobody here wrote, half of their channels removed (L1, multiples of 8), by `slim` and by
Torch-Pruning 1.6.1. Made by `python benchmarks/strangers.py --page docs/results/strangers.md` in an
environment with torch 2.14.1 and torchvision 0.29.1; figures: `benchmarks/strangers.csv`. Random weights,
norms spread out by a seed, small inputs, one thread, each network and program in a process of its own.

"""
COLUMNS = """
## All networks

*removed*: share of the parameters. *exact*: largest difference of the proof (float64, batches 1, 2, 3, three
sizes where the network takes them). *independent*: the same found out without the code that pruned, with
constants dropped; – where attention's weights are rescaled or a layer is of another kind. *plan*: a freshly
built network, narrowed by the plan, computes the same. *ONNX*: onnxruntime from torch, float32; – where
torch's older exporter refuses the network. Seconds: trace, plan and cut / proof / the peer's graph and cut.

"""


def page(rows: Sequence["Row"]) -> str:
    """The page, from the lines of the CSV file."""
    return INTRODUCTION + "\n".join(_summary(rows)) + "\n" + COLUMNS + "\n".join(_table(rows)) + "\n"


def _summary(rows: Sequence["Row"]) -> list[str]:
    done = [row for row in rows if not row.error]
    peer = [row for row in rows if not row.error_peer]
    both = [row for row in done if not row.error_peer]
    ratios = [row.seconds / row.seconds_peer for row in both if row.seconds and row.seconds_peer]
    median = f"{statistics.median(ratios):.2f}" if ratios else "not measured"
    checked = [row for row in done if row.independent not in ("", "-")]
    wrong = [row for row in checked if float(row.independent) > 1e-9]
    exported = [row for row in done if _is_number(row.onnx)]
    less = [row.network for row in both if (row.removed or 0) < 0.95 * (row.removed_peer or 0)]
    few = [sum((share or 0) < 0.15 for share in shares) for shares in zip(*map(_shares, both), strict=True)]
    lines = [
        f"| of {len(rows)} networks | slim | Torch-Pruning |",
        "|---|---:|---:|",
        f"| refused, crashed, over the time limit | {len(rows) - len(done)} | {len(rows) - len(peer)} |",
        f"| under 15 % of the parameters removed, of {len(both)} that both prune | {few[0]} | {few[1]} |",
        f"| another function (independent check of {len(checked)}) | {len(wrong)} | not checked |",
        f"| another class | {sum(row.own_class != 'True' for row in done)} | 0 |",
        f"| plan does not give the same network | {sum(row.plan == 'False' for row in done)} | has none |",
        f"| run by onnxruntime, of {len(done)} | {len(exported)} | not tried |",
        f"| seconds over the peer's, median of {len(ratios)} | {median} | 1 |",
        "",
        f"Less than 95 % of the peer's reduction on {len(less)}: {', '.join(less) or 'none'}.",
    ]
    failed = [f"{row.network} ({row.error})" for row in rows if row.error]
    return [*lines, *(["", f"Refused: {'; '.join(failed)}."] if failed else [])]


def _shares(row: "Row") -> tuple[float | None, float | None]:
    return row.removed, row.removed_peer


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def _table(rows: Sequence["Row"]) -> list[str]:
    titles = "px | parameters | removed | the peer | exact | independent | plan | ONNX | seconds"
    lines = [f"| network | {titles} |", "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|"]
    for row in rows:
        peer = "fails" if row.error_peer else f"{row.removed_peer or 0:.1%}"
        if row.error:
            lines.append(f"| {row.network} | {row.size} | – | fails | {peer} | – | – | – | – | – |")
            continue
        seconds = [row.seconds, row.seconds_proof, row.seconds_peer]
        cells = [
            row.network,
            str(row.size),
            f"{row.parameters or 0:,}",
            f"{row.removed or 0:.1%}",
            peer,
            f"{row.difference or 0:.1e}",
            row.independent.replace("-", "–") if row.independent == "-" else row.independent,
            "yes" if row.plan == "True" else "no",
            row.onnx if _is_number(row.onnx) else "–",
            " / ".join("–" if value is None else f"{value:.2f}" for value in seconds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
