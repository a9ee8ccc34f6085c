"""Training and pruning on blood cells (BCCD): every figure of docs/results/training.md, by one command.

    python benchmarks/bccd.py --cfg tiny3.cfg --weights yolov3-tiny.weights --data bccd/bccd.data --jobs 2
    python benchmarks/bccd.py ... --only "sparse-*"       # some rows, and what they need
    python benchmarks/bccd.py --cfg yolov3-tiny.cfg --weights yolov3-tiny.weights \
        --data coco_mini/coco_mini.data --only "baseline*" --table benchmarks/coco_mini.csv
    python benchmarks/bccd_report.py                      # the tables and the picture, from the CSV alone

Results go to --table, a row each, and what is trained goes to a folder of the table's name in runs/; a row
that is there is not computed again, and a training that was broken off is resumed. Every training is
`train.py` in a process of its own with one thread. Checkpoints are chosen on the validation images; sparse
training is judged by its last checkpoint too, as pruning is.
"""

import argparse
import csv
import fnmatch
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.commands import csv_results as csv_rows

TABLE = ROOT / "benchmarks" / "bccd.csv"
COMMON = (
    "--batch-size",
    "8",
    "--accumulate",
    "2",
    "--schedule",
    "cosine",
    "--no-multi-scale",
    "--workers",
    "0",
)
# what is pruned, and how much
BEST_SPARSE = "sparse-l1-constant"
SHARES = (0.5, 0.7, 0.8)
# with three seeds: the best of each kind, and what it is compared with
REPEATED = {
    "baseline", "baseline-darknet", BEST_SPARSE, "pruned-0.7", "pruned-0.8", "tuned-0.7", "tuned-0.8",
    "taught-0.8-sigmoid",
}  # fmt: skip
SPARSE = ("--epochs", "20", "-sr", "--prune", "1")


@dataclass(frozen=True)
class Trial:
    """One row.

    Attributes:
        name: of the row; the seed is appended to its folder's.
        words: of train.py; empty where this is a pruning run.
        parent: trial whose result it starts from; empty: the pretrained weights.
        teacher: trial that is the teacher; empty: none.
        share: of the channels to prune; 0 where this is a training.
        seed: of the training.
    """

    name: str
    words: tuple[str, ...] = ()
    parent: str = ""
    teacher: str = ""
    share: float = 0.0
    seed: int = 0

    @property
    def key(self) -> str:
        """Name and seed."""
        return f"{self.name}/{self.seed}"


@dataclass(frozen=True)
class Row:
    """The figures of a trial; mAP@0.5 as a fraction, of best.pt, or of the pruned network.

    Attributes:
        test: NaN where the data set has no test images.
        last: mAP of the last epoch on validation images; for a pruned network that of the unpruned one.
        small: share of the gammas below 0.01 of the largest, at the end.
        free: share of the channels that could go with no change of the outputs, at the end.
    """

    name: str
    seed: int
    valid: float
    test: float
    last: float
    small: float
    free: float
    parameters: int
    macs: int
    seconds: float


def trials() -> list[Trial]:
    """The whole grid; parents before children."""
    fifteen = ("--epochs", "15")
    kinds: dict[str, tuple[str, ...]] = {
        "l1-constant": ("--s", "0.001"),
        "l1-global": ("--s", "0.002", "--s-schedule", "global"),
        "l1-local": ("--s", "0.002", "--s-schedule", "local"),
        "proximal": ("--s", "0.001", "--sparsifier", "proximal"),
        "polarized": ("--s", "0.001", "--sparsifier", "polarized"),
        "auto": ("--s", "auto", "--target-sparsity", "0.7", "--s-at", "0.8"),
    }
    found = [Trial(BEST_SPARSE, (*SPARSE, *kinds["l1-constant"]))]
    found += [Trial("baseline", fifteen)]
    found += [Trial(f"pruned-{share}", parent=BEST_SPARSE, share=share) for share in SHARES]
    found += [Trial(f"tuned-{share}", fifteen, f"pruned-{share}") for share in SHARES]
    for share in (0.7, 0.8):  # the control of Liu et al. (2019): without the weights
        for kind in ("e", "b"):
            words = (*fifteen, "--scratch", kind)
            found.append(Trial(f"scratch-{kind}-{share}", words, f"pruned-{share}"))
    found += [Trial(f"sparse-{name}", (*SPARSE, *words)) for name, words in kinds.items()][1:]
    for kind in ("sigmoid", "feature", "sigmoid+feature", "classic1", "classic2"):
        found.append(Trial(f"taught-0.8-{kind}", (*fifteen, "--distill", kind), "pruned-0.8", BEST_SPARSE))
    found.append(Trial("taught-0.7-sigmoid", (*fifteen, "--distill", "sigmoid"), "pruned-0.7", BEST_SPARSE))
    found += [Trial("baseline-darknet", (*fifteen, "--loss", "darknet"))]
    return found + [replace(trial, seed=seed) for trial in found if trial.name in REPEATED for seed in (1, 2)]


class Study:
    """Runs trials, each when what it needs is there, and notes their rows."""

    def __init__(self, args: argparse.Namespace, rows: Mapping[str, Row]) -> None:
        self.cfg, self.weights, self.data = (
            Path(path).resolve() for path in (args.cfg, args.weights, args.data)
        )
        self.table = Path(args.table)
        self.runs = ROOT / "runs" / self.table.stem
        self.rows = dict(rows)
        self._lock = threading.Lock()

    def run(self, wanted: Sequence[Trial], jobs: int) -> None:
        """Run what is missing of `wanted`, `jobs` at a time."""
        waiting = {trial.key: trial for trial in wanted if trial.key not in self.rows}
        running: dict[Future[Row], Trial] = {}
        with ThreadPoolExecutor(jobs) as pool:
            while waiting or running:
                ready = [trial for trial in waiting.values() if self._needs(trial) <= self.rows.keys()]
                for trial in ready[: jobs - len(running)]:
                    print(f"{trial.key} begins", flush=True)
                    running[pool.submit(self._one, waiting.pop(trial.key))] = trial
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._note(running.pop(future), future.result())

    @staticmethod
    def _needs(trial: Trial) -> set[str]:
        return {f"{name}/{trial.seed}" for name in (trial.parent, trial.teacher) if name}

    def _folder(self, name: str, seed: int) -> Path:
        return self.runs / f"{name}-{seed}"

    def _one(self, trial: Trial) -> Row:
        return self._prune(trial) if trial.share else self._train(trial)

    def _train(self, trial: Trial) -> Row:
        cfg, weights = self._start(trial)
        folder = self._folder(trial.name, trial.seed)
        words = ["--cfg", cfg, "--weights", weights, "--data", self.data, "--output", folder, *COMMON]
        words += ["--seed", trial.seed, "--threads", 1, *trial.words]
        if trial.teacher:
            teacher = self._folder(trial.teacher, trial.seed) / "last.pt"
            words += ["--t_cfg", self.cfg, "--t_weights", teacher]
        if (folder / "last.pt").exists():
            words = ["--resume", folder / "last.pt", "--workers", 0, "--threads", 1]
        _call(["train.py", *words], folder / "log.txt")
        with (folder / "history.csv").open(encoding="utf-8") as file:
            history = list(csv.DictReader(file))
        end = history[-1]
        valid, test, parameters, macs = _figures(cfg, folder / "best.pt", self.data)
        seconds = sum(float(line["seconds"]) for line in history)
        shares = float(end["gamma_relative_small"]), float(end["free_share"])
        return Row(
            trial.name, trial.seed, valid, test, float(end["map50"]), *shares, parameters, macs, seconds
        )

    def _prune(self, trial: Trial) -> Row:
        parent, folder = (self._folder(name, trial.seed) for name in (trial.parent, trial.name))
        words = [
            "--cfg",
            self.cfg,
            "--weights",
            parent / "last.pt",
            "--data",
            self.data,
            "--output",
            folder,
        ]
        words += ["--global_percent", trial.share, "--layer_keep", 0.01, "--threads", 1, "--workers", 0]
        _call(["slim_prune.py", *words], folder / "log.txt")
        report = json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))
        cfg, weights = self._pruned(folder)
        valid, test, parameters, macs = _figures(cfg, weights, self.data)
        nothing = float("nan")
        before = report["before"]["map50"]
        return Row(trial.name, trial.seed, valid, test, before, nothing, nothing, parameters, macs, 0.0)

    def _start(self, trial: Trial) -> tuple[Path, Path]:
        if not trial.parent:
            return self.cfg, self.weights
        return self._pruned(self._folder(trial.parent, trial.seed))

    @staticmethod
    def _pruned(folder: Path) -> tuple[Path, Path]:
        return next(folder.glob("prune*.cfg")), next(folder.glob("prune*.weights"))

    def _note(self, trial: Trial, row: Row) -> None:
        with self._lock:
            self.rows[trial.key] = row
            ordered = sorted(self.rows.values(), key=lambda row: (row.name, row.seed))
            csv_rows.write_rows(self.table, ordered)
        print(
            f"{trial.key}: validation {row.valid:.1%}, test {row.test:.1%}, {row.parameters:,} parameters",
            flush=True,
        )


def _call(words: Sequence[object], log: Path) -> None:
    """Run a script of the project; what it says goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / str(words[0])), *map(str, words[1:])]
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(
            command, stdout=file, stderr=file, env=environment, cwd=ROOT, check=False
        ).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}; see {log}")


def _figures(cfg: Path, weights: Path, data: Path) -> tuple[float, float, int, int]:
    """mAP@0.5 on validation and test images, parameters and multiply-adds."""
    import torch

    from utils.commands.evaluate.run import evaluate_network, open_split
    from utils.commands.inputs import open_files
    from utils.data.listing import read_data_file
    from utils.pruning.costs import count_macs

    torch.set_num_threads(1)
    model = open_files(cfg, weights)
    listed = read_data_file(data)
    size = (model.network.height, model.network.width)
    valid, test = (
        evaluate_network(model, open_split(listed, split, model, size), listed.names).map50
        if getattr(listed, split)
        else float("nan")
        for split in ("valid", "test")
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return valid, test, parameters, count_macs(model, size, 3)


def read_rows(table: Path = TABLE) -> dict[str, Row]:
    """The rows so far, by name and seed."""
    return {f"{row.name}/{row.seed}": row for row in csv_rows.read_rows(table, Row)}


def main() -> None:
    """Compute what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", help="yolov3-tiny for three classes, as new_cfg.py makes it")
    parser.add_argument("--weights", help="yolov3-tiny.weights")
    parser.add_argument("--data", help="bccd.data")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV of the results, gone on from")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names to compute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    chosen = [
        trial
        for trial in trials()
        if trial.seed in args.seeds and any(fnmatch.fnmatch(trial.name, pattern) for pattern in args.only)
    ]
    Study(args, read_rows(args.table)).run(chosen, args.jobs)


if __name__ == "__main__":
    main()
