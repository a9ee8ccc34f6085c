"""Read thousands of broken files of every kind, each within two seconds and two gigabytes.

    python benchmarks/fuzz.py
    python benchmarks/fuzz.py --kinds cfg images --cases 20000 --output runs/fuzz.csv

Each case (see cases.py) is read by a worker process whose memory is limited and which is ended when it is
too slow. A line for each case goes into the CSV file at once, so that the same command goes on where it was
broken off; the sums are printed and, with --summary, written to a CSV file of their own. Exit code 1 if any
case was a fault: another error than the reader's own, a crash, or too much time or memory.
"""

import csv
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.table import Table
from tqdm import tqdm

from benchmarks.cases import KINDS, Outcome, run_case
from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.commands.output import show
from utils.files import write_text
from utils.options import POSITIVE_INT

MOST_SECONDS = 2.0
MOST_MEBIBYTES = 2048
# what a worker may take before it is ended
PATIENCE = 20.0


@dataclass(frozen=True)
class Case:
    """A line of the CSV file; seconds of the processor, memory above what the worker held before."""

    kind: str
    number: int
    mutation: str
    outcome: str
    seconds: float
    mebibytes: float
    message: str


def main(argv: list[str] | None = None) -> None:
    """Run what the CSV file lacks, and sum it up."""
    parser = Parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which files")
    parser.add_argument("--cases", type=POSITIVE_INT, default=5000, help="of each kind")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/fuzz.csv"), metavar="FILE", help="every case"
    )
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the sums as CSV")
    args = parser.parse_args(argv)
    done = list(_read(args.output))
    known = {(case.kind, case.number) for case in done}
    wanted = [(kind, n) for kind in args.kinds for n in range(args.cases) if (kind, n) not in known]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not done:
            writer.writerow(field.name for field in fields(Case))
        for case in _run(wanted):
            writer.writerow(astuple(case))
            file.flush()
            done.append(case)
    rows = list(_sums([case for case in done if case.kind in args.kinds]))
    _print(rows)
    if args.summary:
        write_text(args.summary, "".join(",".join(map(str, row)) + "\n" for row in [_COLUMNS, *rows]))
    if any(case.outcome.startswith("FAULT") for case in done):
        sys.exit(1)


def _read(path: Path) -> Iterator[Case]:
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["message"] is not None:  # the last line may have been cut
                numbers = float(row["seconds"]), float(row["mebibytes"])
                yield Case(
                    row["kind"], int(row["number"]), row["mutation"], row["outcome"], *numbers, row["message"]
                )


def _run(wanted: list[tuple[str, int]]) -> Iterator[Case]:
    """Every case by a worker that is reused until it has to be ended."""
    worker: _Worker | None = None
    for kind, number in tqdm(wanted, unit="case", disable=None):
        worker = worker or _Worker()
        case = worker.run(kind, number)
        if case is None:
            worker.end()
            worker = None
            case = Case(kind, number, "", "FAULT: crashed or hung", PATIENCE, 0.0, "")
        yield case
    if worker:
        worker.end()


class _Worker:
    """A process that runs one case after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, kind: str, number: int) -> Case | None:
        """The case, or None if the process died or went on for too long."""
        try:
            self._pipe.send((kind, number))
            return self._pipe.recv() if self._pipe.poll(PATIENCE) else None
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    import logging

    logging.disable(logging.CRITICAL)  # warnings about what is broken, thousands of them
    run_case("cfg", 0, Path(tempfile.mkdtemp()))  # what is loaded once
    held = _status("VmSize")
    limit = int(
        (held + 2 * MOST_MEBIBYTES) * 2**20
    )  # a case above the limit is reported, one far above fails
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        kind, number = pipe.recv()
        with tempfile.TemporaryDirectory() as folder:
            Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
            before, start = _status("VmRSS"), time.process_time()
            found = run_case(kind, number, Path(folder))
            seconds, mebibytes = time.process_time() - start, _status("VmHWM") - before
            message = found.message.replace(folder, "").replace("\n", " ")[:100]
        if not found.outcome.startswith("FAULT") and (seconds > MOST_SECONDS or mebibytes > MOST_MEBIBYTES):
            found = Outcome(found.mutation, "FAULT: too much time or memory")
        numbers = (round(seconds, 4), round(mebibytes, 1))
        pipe.send(Case(kind, number, found.mutation, found.outcome, *numbers, message))


def _status(key: str) -> float:
    """A figure of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


_COLUMNS = ("kind", "outcome", "cases", "worst seconds", "worst MiB")


def _sums(cases: Iterable[Case]) -> Iterator[tuple[str, str, int, float, float]]:
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.kind, case.outcome), []).append(case)
    for (kind, outcome), members in sorted(groups.items()):
        seconds, mebibytes = (max(getattr(c, name) for c in members) for name in ("seconds", "mebibytes"))
        yield kind, outcome, len(members), seconds, mebibytes


def _print(rows: Iterable[tuple[object, ...]]) -> None:
    table = Table()
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("kind", "outcome") else "right")
    for row in rows:
        table.add_row(*map(str, row))
    show("broken files and what became of them", table)


if __name__ == "__main__":
    run_main(main)
