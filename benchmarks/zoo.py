"""Prune every stock cfg by every strategy, several times in a row too, and prove each result.

    python benchmarks/zoo.py
    python benchmarks/zoo.py --only mobilenet enet --strategies slim layers --output runs/zoo.csv

Real weights where there are any, random ones elsewhere. For each cfg and strategy: the compact network equals
the full-size one with the removed parts at zero (float64), after every step of a chain; traced again, it is
as wide as the mask says; its cfg and .weights, written and read again, compute the same; OpenCV and
onnxruntime compute the same, or what OpenCV has against the cfg. A line for each goes into the CSV file at
once, so that the same command goes on where it was interrupted. `--page docs/results/zoo.md` writes the page.
Exit code 1 if anything was wrong.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from benchmarks.zoo_cases import STRATEGIES, Row, cfgs, network_of, run_case
from benchmarks.zoo_page import page
from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.errors import CfgError
from utils.files import write_text


def main(argv: list[str] | None = None) -> None:
    """Run what the CSV file lacks."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="cfgs with this in their name"
    )
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--output", type=Path, default=Path("runs/zoo.csv"), metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write what the CSV file has as Markdown")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = list(read(args.output))
    done = {(row.cfg, row.strategy) for row in rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not rows:
            writer.writerow(field.name for field in fields(Row))
        for row in _run(args.only, args.strategies, done):
            writer.writerow(astuple(row))
            file.flush()
            rows.append(row)
    faults = [row for row in rows if row.verdict.startswith("FAULT")]
    print(f"{len(rows)} runs, {sum(row.verdict == 'ok' for row in rows)} proven, {len(faults)} faults")
    for row in faults:
        print(f"{row.cfg}, {row.strategy}: {row.verdict}")
    if args.page:
        write_text(args.page, page([{f.name: getattr(row, f.name) for f in fields(Row)} for row in rows]))
    if faults:
        sys.exit(1)


def _run(only: Sequence[str], strategies: Sequence[str], done: set[tuple[str, str]]) -> Iterator[Row]:
    wanted = {name: path for name, path in cfgs().items() if any(t.lower() in name.lower() for t in only)}
    cases = [(name, strategy) for name in wanted for strategy in strategies if (name, strategy) not in done]
    known, model = "", None
    for name, strategy in tqdm(cases, unit="run", disable=None):
        if name != known:
            known, model = name, None
            with suppress(CfgError):  # reported by the case
                model = network_of(wanted[name])
        yield run_case(name, wanted[name], strategy, model)


def read(path: Path) -> Iterator[Row]:
    """The lines that are there."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["seconds"]:  # the last line may have been cut
                yield Row(**{f.name: f.type(row[f.name]) for f in fields(Row) if isinstance(f.type, type)})


if __name__ == "__main__":
    run_main(main)
