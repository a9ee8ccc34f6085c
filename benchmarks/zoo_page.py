"""docs/results/zoo.md: the table of benchmarks/zoo.py as Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
INTRODUCTION = """# Every stock cfg under every strategy

Made by `python benchmarks/zoo.py --page docs/results/zoo.md`; figures: `benchmarks/zoo.csv`. `real/` cfgs
have their real weights, all others random ones. A cell is the largest difference of any output of the compact
network from the full-size one with the removed parts at zero, over the largest output, in float64, the worst
of all steps of a chain. Each such network was also written, read back and found equal to the last bit, traced
again and found as wide as its mask, and compared with onnxruntime and, where that reads it, OpenCV. A letter:
not applicable, the reason is below.
"""


def page(rows: Sequence[Row]) -> str:
    """The page, from the lines of the CSV file."""
    reasons: dict[str, str] = {}
    parts = [INTRODUCTION, *_proofs(rows, reasons), "", "## What slim and layer_channel leave", ""]
    parts += [
        "At the cfg's own input size, 70 % of the channels below the threshold, and half of the blocks.\n",
        "| cfg | strategy | filters | parameters | MACs | blocks removed | onnxruntime | OpenCV |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = ("slim", "layer_channel")
    parts += [_sizes(row, reasons) for row in rows if row["strategy"] in shown and row["verdict"] == "ok"]
    parts += ["", "## Reasons", "", "| | |", "|---|---|"]
    parts += [f"| {letter} | {reason} |" for reason, letter in reasons.items()]
    return "\n".join(parts) + "\n"


def _proofs(rows: Sequence[Row], reasons: dict[str, str]) -> list[str]:
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    cells = {(row["cfg"], row["strategy"]): row for row in rows}
    lines = [f"| cfg | {' | '.join(strategies)} |", f"|---|{'---|' * len(strategies)}"]
    for cfg in dict.fromkeys(row["cfg"] for row in rows):
        found = (cells.get((cfg, strategy)) for strategy in strategies)
        lines.append(f"| {cfg} | {' | '.join(_cell(row, reasons) for row in found)} |")
    return lines


def _cell(row: Row | None, reasons: dict[str, str]) -> str:
    if row is None:
        return ""
    verdict = row["verdict"]
    return row["compact"] if verdict == "ok" else _lettered(verdict.removeprefix("n/a: "), reasons)


def _sizes(row: Row, reasons: dict[str, str]) -> str:
    pairs = (f"{row[key]:,} → {row[key + '_after']:,}" for key in ("filters", "parameters", "macs"))
    opencv = row["opencv"] if row["opencv"][:1].isdigit() else _lettered(row["opencv"], reasons)
    blocks = f"{row['blocks_removed']} of {row['blocks']}"
    return f"| {row['cfg']} | {row['strategy']} | {' | '.join(pairs)} | {blocks} | {row['onnx']} | {opencv} |"


def _lettered(reason: str, reasons: dict[str, str]) -> str:
    """Its letter: a .. z, aa, ab, ..."""
    reason = re.sub(r" #\d+", "", reason)  # the same for every section of a kind
    first, second = divmod(len(reasons), 26)
    return reasons.setdefault(reason, (chr(96 + first) if first else "") + chr(97 + second))
