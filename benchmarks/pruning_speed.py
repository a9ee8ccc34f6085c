"""What pruning takes: seconds and memory of whole runs, of the steps in memory, of tracing.

    python benchmarks/pruning_speed.py --cfg cfg/yolov3.cfg --rounds 7
    python benchmarks/pruning_speed.py --cfg cfg/yolov3.cfg --zoo ../shared/zoo

Weights are random, with gammas uniform in 0..1; half of the channels are removed. Every figure is of a
process of its own, all kinds interleaved each round, with 1 and 2 threads:
    quick, full   slim_prune.py --no-eval --verify ..., from the start of Python to its end
    memory        trace + plan + fold + narrow in memory, the second time in the process
    trace         the slowest cfg of --zoo to trace
Memory is the process's peak (resident set), Python and torch included, and that less the weights file's size;
import is a process that imports slim_prune.py and ends.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.errors import ToolkitError
from utils.options import POSITIVE_INT

ROOT = Path(__file__).resolve().parents[1]
_WEIGHTS = """
import sys
from benchmarks.peer_darknet import with_random_gammas
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
save_weights(with_random_gammas(Darknet.from_cfg(sys.argv[1])), sys.argv[2])
"""
_IN_MEMORY = """
import sys, time
from pathlib import Path
from utils.commands.project import open_files
from utils.frontends.darknet import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune
model = open_files(Path(sys.argv[1]), Path(sys.argv[2])).eval()
for _ in range(2):
    start = time.perf_counter()
    prune(DarknetSubject.of(model), [slim(0.5, 0.01)])
    seconds = time.perf_counter() - start
print(seconds)
"""
_TRACE = """
import sys, time
from utils.darknet.network import Network
from utils.errors import UnsupportedSectionError
from utils.frontends.darknet import trace
networks = []
for path in sys.argv[1:]:
    try:
        networks.append(Network.from_cfg(path))
    except UnsupportedSectionError:
        continue
slowest = 0.0
for network in networks:
    start = time.perf_counter()
    trace(network)
    slowest = max(slowest, time.perf_counter() - start)
print(slowest)
"""
_IMPORT = "import slim_prune"


@dataclass(frozen=True)
class Row:
    """One kind of run over all rounds.

    Attributes:
        kind: of run, as in the manual.
        network: name of the cfg.
        threads: of torch.
        rounds: how many.
        seconds, low, high: median, least, most.
        peak_mib: median of the process's peak.
        above_mib: the same without the weights.
        load: of the machine when the last round began (its 1 minute average).
    """

    kind: str
    network: str
    threads: int
    rounds: int
    seconds: float
    low: float
    high: float
    peak_mib: float
    above_mib: float
    load: float


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.weights"
        _run([sys.executable, "-c", _WEIGHTS, str(args.cfg), str(weights)], threads=1)
        kinds = _kinds(args.cfg, weights, sorted(args.zoo.glob("*.cfg")) if args.zoo else [])
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        load = 0.0
        for number in range(args.rounds + 1):
            load = os.getloadavg()[0]
            for threads in args.threads:
                for kind, command in kinds.items():
                    figures = _run(command, threads)
                    if number:  # the first round fills the machine's file cache
                        found.setdefault((kind, threads), []).append(figures)
        size = weights.stat().st_size / 2**20
    rows = [_row(kind, args.cfg.stem, threads, runs, size, load) for (kind, threads), runs in found.items()]
    with args.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(_shown(rows))
    for line in _shown(rows):
        print(*line)


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--zoo", type=Path, metavar="DIR", help="cfgs to trace")
    parser.add_argument("--rounds", type=POSITIVE_INT, default=5)
    parser.add_argument("--threads", type=POSITIVE_INT, nargs="+", default=[1, 2])
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser


def _kinds(cfg: Path, weights: Path, zoo: Sequence[Path]) -> Mapping[str, list[str]]:
    files = ["--cfg", str(cfg), "--weights", str(weights), "--output", str(weights.parent)]
    whole = [sys.executable, "slim_prune.py", *files, "--global_percent", "0.5", "--no-eval"]
    kinds = {
        "import": [sys.executable, "-c", _IMPORT],
        "quick": [*whole, "--verify", "quick"],
        "full": [*whole, "--verify", "full"],
        "memory": [sys.executable, "-c", _IN_MEMORY, str(cfg), str(weights)],
    }
    return kinds | ({"trace": [sys.executable, "-c", _TRACE, *map(str, zoo)]} if zoo else {})


def _run(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds of the process, or those that it prints, and its peak in MiB.

    Raises:
        ToolkitError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        # wait4 tells the peak of this process alone; getrusage would tell the largest of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        printed = output.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ToolkitError(f"{' '.join(command[:3])}", f"failed: {printed[-500:]}", "run it by hand")
    if command[1] == "-c" and printed.strip():
        seconds = float(printed.split()[-1])
    return seconds, usage.ru_maxrss / 1024  # KiB on Linux


def _row(
    kind: str, network: str, threads: int, runs: Sequence[tuple[float, float]], size: float, load: float
) -> Row:
    seconds, peaks = zip(*runs, strict=True)
    peak = float(np.median(peaks))
    above = peak - (0 if kind in ("import", "trace") else size)
    figures = (float(np.median(seconds)), min(seconds), max(seconds), peak, above)
    return Row(kind, network, threads, len(runs), *figures, load)


def _shown(rows: Sequence[Row]) -> Iterator[list[object]]:
    for row in rows:
        yield [f"{value:.4g}" if isinstance(value, float) else value for value in astuple(row)]


if __name__ == "__main__":
    run_main(main)
