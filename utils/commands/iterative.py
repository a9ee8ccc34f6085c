"""--iterative K: prune a part of the way, recalibrate, fine-tune for a while, K times down to the budget.

Each round starts from the one before; its limits lie on a geometric way from what the network costs to what
it may. A round that is done is not done again, so an interrupted run goes on where it was; rounds of other
files or options lie in another folder.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from utils.commands.arguments import next_command, prepare, write_json
from utils.commands.budgets import shares_asked
from utils.commands.project import open_files
from utils.commands.pruning_job import Job, open_job
from utils.commands.pruning_options import COSTS, Amount, budget_tag
from utils.commands.pruning_stages import evaluations, figures
from utils.commands.results import quoted
from utils.commands.tables import multiply_adds, percent, show
from utils.commands.train import run_training, train_parser
from utils.commands.trials import identity, settings
from utils.darknet.checkpoint import save_weights
from utils.errors import ToolkitError
from utils.files import write_text

PruneOnce = Callable[[argparse.Namespace], object]
DONE = "round.json"
# training images for batch-norm statistics, where --recalibrate does not say how many
RECALIBRATED = 64
# options that change what a round leaves; the limits are in its folder's name already
_KEYS = (
    "iterative", "tune_epochs", "score", "merge", "layer_keep", "align", "min_channels", "keep_sections",
    "fold", "recalibrate", "runtime", "img_size", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """What a round left: its network, fine-tuned, and mAP@0.5 as pruned and after tuning."""

    cfg: Path
    weights: Path
    parameters: int
    macs: int
    pruned: float | None
    tuned: float | None


def run_iterative(args: argparse.Namespace, prune_once: PruneOnce) -> None:
    """Run all rounds and write the last one's network under the budget's name.

    Args:
        args: of slim_prune.py, with limits.
        prune_once: prunes as other arguments say.

    Raises:
        ToolkitError: a limit is missing, or there is no data set to tune on.
    """
    job = open_job(args, prepare(args), budget_tag(args))
    if job.data is None:
        raise ToolkitError("--iterative: fine-tunes between the rounds; add --data")
    shares = shares_asked(job)
    if not shares:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in COSTS)
        raise ToolkitError(f"--iterative: goes down to a limit; add one of {options}")
    mark = hashlib.sha256(f"{identity(job)} {settings(args, _KEYS)}".encode()).hexdigest()[:8]
    folder = job.outputs.weights.parent / f"{job.outputs.weights.stem}_rounds" / mark
    rounds: list[Round] = []
    for number in range(1, args.iterative + 1):
        progress = number / args.iterative
        limits = {name: Amount(whole * share**progress, False) for name, (whole, share) in shares.items()}
        rounds.append(_round(job, limits, folder / str(number), rounds, prune_once))
    last = rounds[-1]
    if args.min_map is not None and (last.tuned is None or last.tuned < args.min_map):
        found = "was not measured" if last.tuned is None else f"is {last.tuned:.4f}"
        remedy = "tune longer (--tune-epochs), allow it to cost more, or accept less"
        raise ToolkitError(f"--min-map {args.min_map}: mAP@0.5 after the last round {found}; {remedy}")
    model = open_files(last.cfg, last.weights)
    write_text(job.outputs.cfg, model.network.to_cfg())
    save_weights(model, job.outputs.weights)
    _table(rounds, job.outputs.cfg.stem)
    print(f"written: {job.outputs.cfg}, {job.outputs.weights}; every round lies in {folder}")
    network = f"--cfg {quoted(job.outputs.cfg)} --weights {quoted(job.outputs.weights)}"
    next_command(f"python evaluate.py {network} --data {quoted(job.project.needed('data'))}")


def _round(
    job: Job, limits: dict[str, Amount], folder: Path, before: list[Round], prune_once: PruneOnce
) -> Round:
    if (folder / DONE).exists():
        return _read(folder / DONE)
    args = copy(job.args)
    args.iterative, args.output, args.report, args.verify = 1, folder, False, "quick"
    del args.tune_epochs  # the round itself only prunes
    args.min_map = None  # asked of what comes out in the end, fine-tuned
    args.recalibrate = args.recalibrate or RECALIBRATED
    args.cfg = before[-1].cfg if before else job.project.cfg
    args.weights = before[-1].weights if before else job.project.weights
    args.data = job.project.data
    for name in COSTS:
        setattr(args, name, limits.get(name))
    prune_once(args)
    cfg, weights = next(folder.glob("*.cfg")), next(folder.glob("*.weights"))
    tuned = folder / "tuned"
    words = ["--cfg", cfg, "--weights", weights, "--data", args.data, "--epochs", job.args.tune_epochs]
    words += ["--output", tuned, "--workers", args.workers, "--seed", args.seed, "--device", args.device]
    words += ["--t_weights", job.project.needed("weights"), "--no-multi-scale"]
    words += ["--t_cfg", job.project.cfg] if job.project.cfg else []
    words += ["--threads", args.threads] if args.threads else []
    run_training(train_parser(None).parse_args([str(word) for word in words]))
    done = Round(
        cfg, tuned / "best.pt", *_measured(job, cfg, weights), _measured(job, cfg, tuned / "best.pt")[-1]
    )
    write_json(folder / DONE, vars(done))
    return done


def _measured(job: Job, cfg: Path, weights: Path) -> tuple[int, int, float | None]:
    """Parameters, multiply-adds and mAP@0.5 on the validation images."""
    model = open_files(cfg, weights).to(job.device)
    found = evaluations(job, {"round": model})["round"]
    size = figures(job, model, None if found is None else found.map50, None)
    return size.parameters, size.macs, size.map50


def _read(path: Path) -> Round:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Round(**found | {name: Path(found[name]) for name in ("cfg", "weights")})


def _table(rounds: list[Round], title: str) -> None:
    table = Table()
    for column in ("round", "parameters", "MACs", "mAP@0.5 pruned", "fine-tuned"):
        table.add_column(column, justify="right")
    for number, found in enumerate(rounds, 1):
        maps = (percent(found.pruned), percent(found.tuned))
        table.add_row(str(number), f"{found.parameters:,}", multiply_adds(found.macs), *maps)
    show(title, table)
