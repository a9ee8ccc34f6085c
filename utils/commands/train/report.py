"""What train.py says before and after: the table of a run's options, its results, the next command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...darknet.checkpoint import load_weights
from ...darknet.model import Darknet
from ...data.listing import DataFile
from ...data.loader import Loader
from ...profiling import count_parameters
from ...training.loop import BEST, LAST, OUTPUTS
from ...training.optimizer import scaled_rate
from ...training.precision import half_type
from ...training.processes import Processes
from ..arguments import next_command
from ..evaluate.command import evaluate_network, list_findings, open_split, print_evaluation
from ..inputs import DemoFiles, Project
from .options import MODERN, Run, other_courses
from .progress import print_options
from .random_init import show_pruned

OUTPUT = Path("weights")


@dataclass(frozen=True)
class Machine:
    """Where a run happens and what is shown of it; changes its speed only.

    Attributes:
        device, workers, processes: as their names say.
        threads: of torch; None where none were asked for.
        cache: "ram", "disk" or "none", see `DetectionDataset`.
        save_minutes: the longest time without a checkpoint.
        board: folder for TensorBoard, or None.
        is_last: whether to name the command that one would type next.
    """

    device: torch.device
    workers: int
    threads: int | None
    processes: Processes
    cache: str = "ram"
    save_minutes: float = 10.0
    board: Path | None = None
    is_last: bool = True


def announce(
    run: Run, files: Mapping[str, object], options: dict[str, tuple[object, str]], machine: Machine
) -> None:
    """Print all that decides a run, and where it comes from; what plays no part in it is left out."""
    if not machine.processes.is_first:
        return
    chosen, count = run.options, machine.processes.count
    sparsity = f"on the candidates of --prune {run.prune}{' --classic' * run.classic}"
    rows = {**files, "data": run.data, "teacher": run.t_weights or "none"}
    rows |= {"output": run.output, "sparsity": sparsity if chosen.s else "none"}
    hidden = other_courses(chosen.schedule)
    hidden |= {name for name in options if name.startswith("s_")} if not chosen.s else set()
    hidden |= {"s", "sparsifier", "gamma_reach", "target_sparsity"} if not chosen.s else set()
    hidden |= set() if run.t_weights else {"distill"}
    hidden |= MODERN if chosen.loss == "darknet" else set()
    options = {name: pair for name, pair in options.items() if name not in hidden}
    images = chosen.batch_size * chosen.accumulate * count
    rate = scaled_rate(chosen.learning_rate, chosen.optimizer, images)
    rows |= {"step": f"{images} images, learning rate {rate:.3g}", "device": f"{machine.device} x {count}"}
    half = half_type(machine.device, chosen.precision)
    rows |= {"computes in": str(half or torch.float32).removeprefix("torch.")}
    print_options({name: (value, "") for name, value in rows.items()} | options, "training")


def report(model: Darknet, data: DataFile, run: Run, machine: Machine, training: Loader) -> None:
    """Evaluate the best network in full precision on the splits that exist; say what was written.

    Args:
        model: takes the best weights.
        data: the data set.
        run: that has ended.
        machine: where.
        training: the loader that was trained on, for what was wrong with the images.
    """
    best = _best(run)
    load_weights(model, best)
    reached: dict[str, float] = {}
    for split in ("valid", "test"):
        if getattr(data, split) is None:
            continue
        rect, size = run.options.rectangular, run.options.image_size
        loader = open_split(data, split, model, size, rect=rect, workers=machine.workers)
        title = f"{best} on {split} of {run.data}"
        evaluation = evaluate_network(model, loader, data.names, label=split)
        print_evaluation(evaluation, loader, title)
        reached[split] = evaluation.map50
    for line in list_findings(training):
        print(f"train of {run.data}: {line}")
    show_pruned(run, count_parameters(model), reached)
    files = [run.output / name for name in OUTPUTS]
    print("written: " + ", ".join(str(path) for path in files if path.exists()))
    if machine.is_last:
        next_command(*_next(run))


def _best(run: Run) -> Path:
    """best.pt; last.pt where that alone was copied to this folder and no epoch since was better."""
    best = run.output / BEST
    return best if best.exists() else run.output / LAST


def _next(run: Run) -> tuple[str, ...]:
    if not run.options.s:
        return "python export.py", Project(run.cfg, None, _best(run), is_demo=False).options()
    is_demo = run.is_demo and run.output == DemoFiles.here().weights.parent
    files = Project(run.cfg, run.data, run.output / LAST, is_demo)
    return "python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01"
