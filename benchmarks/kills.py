"""Does a training survive being killed? Runs killed at random moments, resumed, and compared bit for bit.

    python benchmarks/kills.py --runs 20

A small network learns a few generated images. One run is left alone; each of the others is ended by SIGKILL
at a moment drawn from its whole length, resumed by `train.py --resume`, and must leave the same model,
average, optimizer, schedule, penalty and history. A line for each goes to benchmarks/kills.csv; lines that
are there are not computed again.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from utils.darknet.checkpoint import read_checkpoint
from utils.data.shapes import make_shapes

TABLE = ROOT / "benchmarks" / "kills.csv"
WORDS = (
    "--workers", "0", "--threads", "1", "--batch-size", "2", "--accumulate", "2", "--epochs", "4",
    "--img_size", "64", "-sr", "--s", "auto", "--sparsifier", "proximal", "--mosaic", "0.5", "--multi-scale",
    "--save-minutes", "0.00001",
)  # fmt: skip
# they are times, not results
TIMES = frozenset({"seconds", "images_per_second"})


def command(data: Path, output: Path) -> list[str]:
    """The training, from its start."""
    cfg = ROOT / "cfg" / "yolov3-shapes.cfg"
    files = ["--cfg", str(cfg), "--data", str(data), "--output", str(output)]
    return [sys.executable, str(ROOT / "train.py"), *files, *WORDS]


def run(words: list[str], seconds: float | None = None) -> int:
    """Run to the end, or kill after `seconds`; returns the exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(words, stdout=quiet, stderr=quiet, env=environment, cwd=ROOT)
    try:
        return running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGKILL)
        return running.wait()


def difference(one: object, two: object, place: str) -> str:
    """Where two states differ, or an empty text."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return "" if torch.equal(one, two) else place
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return place
        pairs = ((one[key], two[key], f"{place}.{key}") for key in one if key not in TIMES)
        return next((found for pair in pairs if (found := difference(*pair))), "")
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        if len(one) != len(two):
            return place
        numbered = enumerate(zip(one, two, strict=True))
        return next((found for n, pair in numbered if (found := difference(*pair, f"{place}.{n}"))), "")
    return "" if repr(one) == repr(two) else place


def left_by(folder: Path) -> dict[str, object]:
    """All that a run leaves and that must be the same."""
    last, best = (read_checkpoint(folder / name) for name in ("last.pt", "best.pt"))
    parts = {key: last.training[key] for key in ("trainer", "history", "epoch")}
    return {"last": dict(last.state), "best": dict(best.state), **parts}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    rows = list(csv.DictReader(TABLE.open(encoding="utf-8"))) if TABLE.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_shapes(folder / "set", sizes={"train": 32, "valid": 4, "test": 2})
        started = time.monotonic()
        assert run(command(data, folder / "whole")) == 0
        length = time.monotonic() - started
        wanted = left_by(folder / "whole")
        moments = random.Random(args.seed)
        for number in range(args.runs):
            moment = moments.uniform(0.0, length)
            if number < len(rows):
                continue
            rows.append(one(number, moment, data, folder / str(number), wanted))
            write(rows)
    wrong = [row for row in rows if row["difference"]]
    print(f"{len(rows)} runs killed and resumed, {len(wrong)} differ from the undisturbed one")
    sys.exit(bool(wrong))


def one(number: int, moment: float, data: Path, output: Path, wanted: dict[str, object]) -> dict[str, object]:
    """One run killed after `moment` seconds and resumed, or started again if nothing was saved yet."""
    run(command(data, output), moment)
    step = epoch = 0
    words = command(data, output)
    if (output / "last.pt").exists():
        state = read_checkpoint(output / "last.pt").training
        step, epoch = state["trainer"]["step"], state["epoch"]
        resume = ["--resume", str(output / "last.pt"), "--workers", "0", "--threads", "1"]
        words = [sys.executable, str(ROOT / "train.py"), *resume]
    assert run(words) == 0
    found = difference(left_by(output), wanted, "state")
    print(f"run {number + 1}: killed after {moment:.2f} s, at step {step}: {found or 'equal'}", flush=True)
    return {"run": number, "seconds": f"{moment:.2f}", "epochs": epoch, "step": step, "difference": found}


def write(rows: list[dict[str, object]]) -> None:
    """The table so far."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
