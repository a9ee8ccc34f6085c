"""Does a change of the code change a number? The short runs of README.md in two checkouts, file against file.

    git worktree add ../old 2462526
    python benchmarks/against_commit.py --base ../old

Both trees are copied to a temporary folder (what git knows of them, as it is on the disk) and run the same
commands in the same order there: sparse training, every pruning script, a budget, conversion, evaluation,
detection, doctor, ladder, sensitivity, fine-tuning with a teacher, export, and `slim()` on MobileNetV2. All
run on the CPU with one thread and fixed seeds, so that a tree compared with itself is equal. Then every file
that the runs left is compared:
    .json      the same keys and the same values, masks included
    .csv       the same columns and cells
    .pt        the same tensors, to the bit, and the same other values
    any other  the same bytes, so .cfg, .weights, .onnx, labels and pictures with boxes
Left out are values that are times, versions, the command line or the place of the copy; of pages and charts
that show times only the names are compared. The exit code is 1 if anything differs. It takes three to four
minutes of one core for a tree; with --keep DIR the old one is run only once.
"""

import argparse
import csv
import hashlib
import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.checkouts import SLIM_CALL, commit_of, copy_tree, run_in

_MACHINE = "--threads 1 --seed 0 --workers 0 --device cpu"
_SLIM = (
    SLIM_CALL
    + """
import json
from pathlib import Path
folder = Path("runs/slim")
folder.mkdir(parents=True)
report = result.report
torch.save({"plan": result.plan.to_json(), "state": result.model.state_dict()}, folder / "slim.pt")
saved = torch.load(folder / "slim.pt", weights_only=True)
again = apply_plan(MobileNetV2(classes=10), Plan.from_json(saved["plan"]))
load(again, saved["state"])
image = torch.rand(1, 3, 224, 224)
with torch.no_grad():
    outputs = {"pruned": result.model(image), "again": again.eval()(image)}
torch.save(outputs, folder / "outputs.pt")
(folder / "plan.json").write_text(json.dumps(result.plan.to_json()))
(folder / "report.txt").write_text(str(report))
numbers = {"parameters": report.parameters, "macs": report.macs, "difference": report.difference}
(folder / "report.json").write_text(json.dumps(numbers))
"""
)
_CONVERT = "from models import *; convert('cfg/yolov3-shapes.cfg', 'weights/last.pt')"
# A .pt holds times, and tables of figures name their network by what its file holds.
_CONVERTED = "--cfg cfg/yolov3-shapes.cfg --weights weights/last.weights --data data/shapes.data"
_PRUNED = (
    "--cfg cfg/prune_0.8_keep_0.01_yolov3-shapes.cfg --weights weights/prune_0.8_keep_0.01_last.weights "
    "--data data/shapes.data"
)
_TEACHER = "--t_cfg cfg/yolov3-shapes.cfg --t_weights weights/last.pt --distill sigmoid+feature"
# Command lines run with `python`, by name.
STEPS = {
    "train": f"train.py -sr --s 0.001 --prune 1 --epochs 2 {_MACHINE}",
    "slim_prune": f"slim_prune.py --global_percent 0.8 --layer_keep 0.01 {_MACHINE}",
    "layer_prune": f"layer_prune.py --shortcuts 8 {_MACHINE}",
    "convert": f"-c {shlex.quote(_CONVERT)}",
    "prune": f"prune.py --verify quick {_MACHINE}",
    "shortcut_prune": f"shortcut_prune.py --verify quick {_MACHINE}",
    "layer_channel_prune": f"layer_channel_prune.py --verify quick {_MACHINE}",
    "budget": f"slim_prune.py --max-macs 50% --verify quick --output runs/budget {_MACHINE}",
    "evaluate": f"evaluate.py --json runs/evaluate.json {_MACHINE}",
    "detect": f"detect.py --source data/shapes/test.txt --conf 0.1 --save-txt --json {_MACHINE}",
    "doctor": f"doctor.py {_CONVERTED} --json runs/doctor.json",
    "ladder": f"ladder.py {_CONVERTED} --rungs 0.3 0.7 --refine 0 --eval-images 16 --recalibrate 16 "
    f"--score gamma l1 --runtime none --output runs/ladder {_MACHINE}",
    "sensitivity": f"sensitivity.py {_CONVERTED} --ratios 0.5 --eval-images 4 --recalibrate 4 "
    f"--output runs/sensitivity {_MACHINE}",
    "fine-tune": f"train.py {_PRUNED} {_TEACHER} --epochs 1 --output runs/tuned {_MACHINE}",
    "export": f"export.py {_PRUNED} --format onnx --output runs/export {_MACHINE}",
    "slim()": f"-c {shlex.quote(_SLIM)}",
}
# They differ from run to run or from machine to machine, and say nothing of a network.
_LEFT_OUT = frozenset(
    {"command", "images_per_second", "latency_ms", "milliseconds", "ms", "seconds", "timed_on", "unpruned_ms"}
    | {"versions"}
)
_NAMES_ONLY = re.compile(r".*\.html|.*history\.png")  # show times
_OWN = "against_commit"  # a file that tells a folder of --keep from one whose files are others'
SHOWN = 3  # differences of a file that are reported


def main() -> None:
    """Run both, compare, exit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="checkout of the old commit")
    parser.add_argument("--new", type=Path, default=ROOT, help="checkout of the new one (default: this)")
    text = "what the runs left stays there, and a base that ran there before is not run again"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=text)
    parser.add_argument("--all", action="store_true", help="list the equal files too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / _OWN).exists():
            parser.error(f"--keep {args.keep}: holds other files; name a new folder")
        (folder / _OWN).touch()
        commits = commit_of(args.base), commit_of(args.new)
        rows = [*run_base(args.base, folder / "base"), *run_steps(args.new, folder / "new")]
        rows += compare(folder / "base", folder / "new")
    show(rows, "{} against {}".format(*commits), args.all)
    sys.exit(any(text for _, text in rows))


def run_base(root: Path, folder: Path) -> list[tuple[str, str]]:
    """As `run_steps`, unless the same steps ran there on the same commit, unchanged and without a failure."""
    known, mark = folder.with_suffix(".json"), {"commit": commit_of(root), "steps": STEPS}
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) == mark:
        print(f"{folder}: is of {mark['commit']}")
        return []
    known.unlink(missing_ok=True)
    rows = run_steps(root, folder)
    if not rows and not commit_of(root).endswith("+"):
        known.write_text(json.dumps(mark), encoding="utf-8")
    return rows


def run_steps(root: Path, folder: Path) -> list[tuple[str, str]]:
    """Run all steps in a copy of a checkout; a row for each that fails, which should be none."""
    if folder.exists():
        shutil.rmtree(folder)
    copy_tree(root, folder)
    before = {path.relative_to(folder) for path in _files(folder)}
    rows = []
    for name, words in STEPS.items():
        started = time.monotonic()
        done = run_in(folder, shlex.split(words))
        print(f"{folder.name}: {name}: {time.monotonic() - started:.0f} s", flush=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            rows.append((f"{folder.name}: {name}", f"exit code {done.returncode}: {' '.join(said)}"))
    for path in before:
        (folder / path).unlink()  # the code; what is left is what the runs wrote
    return rows


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def compare(base: Path, new: Path) -> Iterator[tuple[str, str]]:
    """For each file its name below the folders and what differs, empty where nothing does."""
    names = [{path.relative_to(folder).as_posix() for path in _files(folder)} for folder in (base, new)]
    for name in sorted(names[0] | names[1]):
        if name not in names[1]:
            yield name, "missing in new"
        elif name not in names[0]:
            yield name, "missing in base"
        else:
            yield name, what_differs(base, new, name)


def what_differs(base: Path, new: Path, name: str) -> str:
    """The first differences of a file that both trees wrote."""
    one, two = base / name, new / name
    if _NAMES_ONLY.fullmatch(name):
        return ""
    if one.suffix not in READERS:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in (one, two)]
        return "" if digests[0] == digests[1] else "sha256 {}... / {}...".format(*digests)
    read = READERS[one.suffix]
    found = list(differences(read(one), read(two), "", (str(base), str(new))))
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def differences(one: Any, two: Any, place: str, folders: tuple[str, str]) -> Iterator[str]:
    """Where two values differ and how, times and the like left out.

    Args:
        one: of containers, tensors, numbers and text.
        two: as `one`.
        place: of both in what they are part of.
        folders: of the copies, whose names count as the same.
    """
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.dtype != two.dtype or one.shape != two.shape or one.numpy().tobytes() != two.numpy().tobytes():
            yield f"{place}: another tensor"
    elif isinstance(one, Mapping) and isinstance(two, Mapping):
        yield from (f"{place}.{key}: missing in new" for key in one if key not in two)
        yield from (f"{place}.{key}: missing in base" for key in two if key not in one)
        for key in one:
            if key in two and key not in _LEFT_OUT:
                yield from differences(one[key], two[key], f"{place}.{key}", folders)
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            yield f"{place}: {len(one)} / {len(two)} entries"
        for number, pair in enumerate(zip(one, two, strict=False)):
            yield from differences(*pair, f"{place}.{number}", folders)
    elif isinstance(one, str) and isinstance(two, str):
        if one.replace(folders[0], ".") != two.replace(folders[1], "."):
            yield f"{place}: {one[:60]!r} / {two[:60]!r}"
    elif type(one) is not type(two) or repr(one) != repr(two):
        yield f"{place}: {one!r} / {two!r}"[:200]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_checkpoint(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")


READERS = {".json": _read_json, ".csv": _read_csv, ".pt": _read_checkpoint}


def show(rows: Sequence[tuple[str, str]], title: str, whole: bool) -> None:
    """Print what differs, and how many files of each kind are equal or, `whole`, which."""
    table = Table("file", "", title=title)
    for name, text in rows:
        if text or whole:
            only = "equal, by name" if _NAMES_ONLY.fullmatch(name) else "equal"
            table.add_row(name, text or only)
    equal = Counter(Path(name).suffix for name, text in rows if not text and not _NAMES_ONLY.fullmatch(name))
    for suffix, count in equal.items() if not whole else ():
        table.add_row(f"{count} x *{suffix}", "equal")
    by_name = sum(not text and bool(_NAMES_ONLY.fullmatch(name)) for name, text in rows)
    if by_name and not whole:
        table.add_row(f"{by_name} pages and charts that show times", "both are there")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    differing = sum(bool(text) for _, text in rows)
    print(f"{len(rows)} files, {differing} differ" if differing else f"{len(rows)} files, none differs")


if __name__ == "__main__":
    main()
