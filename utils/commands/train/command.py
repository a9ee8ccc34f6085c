"""Train a network: from scratch, from given weights, sparsely before pruning, or again after it.

    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/yolov3.weights
    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/best.pt -sr --s 0.001 --prune 1
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights \\
        --t_cfg cfg/yolov3.cfg --t_weights weights/best.pt
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights --scratch b
    python train.py --resume

Sparse training (-sr) pushes exactly the batch-norm gammas to zero that pruning will judge: --prune 0 for
prune.py, which leaves shortcuts alone, --prune 1 for the other strategies; --classic for the narrower sets of
the published programs. Each epoch tells which share of the channels could go with no change of the outputs.
A teacher (--t_cfg, --t_weights) lets a pruned network learn from the one that it was cut from. Weights of
another class count are used but for the heads. --scratch loads none: the pruned network from random weights,
for the same epochs (e) or the same multiply-adds (b), shows whether it was worth inheriting any.

The folder --output receives last.pt (to resume, and what pruning reads), previous.pt (the one before),
best.pt (highest validation mAP@0.5), history.csv, history.png and gammas.png. A file of that name that was
given as input is renamed first. What is not given comes from the cfg ([net], and the last head's jitter and
random) or was chosen by measurement; the table at the start says which holds. --resume without a file goes
on with the newest run; Ctrl-C and SIGTERM save first.
With none of --cfg, --data, --weights the small demo network learns a generated data set.
Several processes: torchrun --nproc-per-node 2 -- train.py ... (without the -- torchrun takes --s for its own)
"""

import argparse
import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch

from ...darknet.checkpoint import Checkpoint, load_weights, read_checkpoint
from ...darknet.model import Darknet
from ...darknet.network import Network
from ...darknet.pretrained import load_pretrained
from ...data.listing import read_data_file
from ...errors import ToolkitError, WeightsError
from ...files import protect_inputs, require_writable
from ...options import POSITIVE_FLOAT, POSITIVE_INT
from ...profiling import count_macs
from ...training.board import Board
from ...training.distillation import Teacher
from ...training.head_rules import head_rules
from ...training.loop import LAST, OUTPUTS, PREVIOUS, Extras, train
from ...training.precision import channels_last
from ...training.processes import joined, local_device
from ..arguments import Parser, add_common, add_data, add_network, prepare, resolve
from ..inputs import DemoFiles, fresh_network, open_files
from .newest import newest_run
from .options import (
    CANDIDATES,
    SPARSE_OPTIONS,
    Run,
    add_distillation_options,
    add_sparsity_options,
    add_training_options,
)
from .parts import free_share_of, objective_of, open_loaders, penalty_of
from .progress import EpochBars, Observers, Pictures
from .random_init import add_scratch, choose_scratch_options, described, refuse_idle_scratch
from .report import OUTPUT, Machine, announce, report

NEWEST = Path("newest")
logger = logging.getLogger(__name__)
# Up to here a second thread saves a quarter of a step at best, and makes it many times longer wherever
# something else, such as the processes that load images, needs a core: layers end sooner than threads meet.
ONE_THREAD_MACS = 5e9
# what --resume may be combined with: options of the machine, not of the run
_MACHINE = {"resume", "device", "workers", "threads", "cache", "save_minutes", "tensorboard", "command"}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_training(train_parser().parse_args(argv))


def train_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "train")
    add_network(parser)
    add_data(parser)
    add_training_options(parser)
    add_sparsity_options(parser)
    add_distillation_options(parser)
    files = parser.add_argument_group("files")
    add_scratch(files)
    files.add_argument("--cutoff", type=_cutoff, metavar="N", help="load the first N sections only, or auto")
    files.add_argument("--weights-classes", type=POSITIVE_INT, metavar="N", help="classes of a .weights file")
    files.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of all results")
    resume = (
        f"continue the run of this {LAST}, with its own options (default: the newest run's below this folder)"
    )
    files.add_argument("--resume", nargs="?", type=Path, const=NEWEST, metavar="FILE", help=resume)
    files.add_argument(
        "--tensorboard", action="store_true", help="event files too, in the folder of the results"
    )
    add_common(parser)
    cache = "where decoded images are kept"
    parser.add_argument("--cache", choices=["ram", "disk", "none"], default="ram", help=cache)
    minutes = "write a checkpoint inside an epoch, too, if the last one is older"
    parser.add_argument("--save-minutes", type=POSITIVE_FLOAT, default=10.0, metavar="X", help=minutes)
    return parser


def _cutoff(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else POSITIVE_INT(text)


def run_training(args: argparse.Namespace, *, is_last: bool = True) -> None:
    """Train as the command line says, or resume; unless it `is_last`, another command goes on behind it.

    Raises:
        ToolkitError: a file cannot be used, options contradict each other, or the loss is not finite.
    """
    device = local_device(prepare(args))
    with joined(device) as processes:
        board = args.output / "tensorboard" if args.tensorboard else None
        rest = (args.cache, args.save_minutes, board)
        machine = Machine(device, args.workers, args.threads, processes, *rest, is_last)
        if args.resume is None:
            _start(args, machine)
        else:
            _resume(args, machine)


def _given(args: argparse.Namespace, names: Iterable[str]) -> str:
    """Those of the options `names` that were typed, for a message; empty if none was."""
    defaults = train_parser().parse_args([])
    typed = sorted(name for name in names if getattr(args, name) != getattr(defaults, name))
    return ", ".join(f"--{name}" for name in typed)


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """An option that would change nothing is a mistake to tell, not to pass over."""
    if args.t_cfg and not args.t_weights:
        raise ToolkitError("--t_cfg", "given without weights, but a teacher needs both", "add --t_weights")
    idle = "" if args.sparsity else _given(args, SPARSE_OPTIONS)
    if idle:
        raise ToolkitError(idle, "without -sr there is no sparse training", "add -sr or leave it out")
    if args.distill and not args.t_weights:
        raise ToolkitError(
            "--distill", "there is no teacher to learn from", "add --t_weights, and its --t_cfg"
        )
    refuse_idle_scratch(args)
    idle = "" if args.weights else _given(args, ("cutoff", "weights_classes"))
    if idle:
        raise ToolkitError(idle, "no weights to load are given", "add --weights or leave it out")


def _start(args: argparse.Namespace, machine: Machine) -> None:
    _refuse_idle_options(args)
    project = resolve(args, needs=("cfg", "data"))
    model = fresh_network(project.network())
    pruning = args.report or (project.weights.with_suffix(".json") if project.weights else None)
    options, table = choose_scratch_options(args, model, pruning)
    if not args.scratch:
        _load(model, project.weights, args)
    is_default = project.is_demo and args.output == OUTPUT
    run = Run(
        cfg=project.cfg,
        data=project.needed("data"),
        t_cfg=args.t_cfg,
        t_weights=args.t_weights,
        report=pruning,
        output=DemoFiles.here().weights.parent if is_default else args.output,
        prune=CANDIDATES if args.prune is None else args.prune,
        classic=args.classic,
        is_demo=project.is_demo,
        options=options,
        scratch=args.scratch,
    )
    files: dict[str, object] = {
        "cfg": model.network.source,
        "weights": described(args.scratch, project.weights),
    }
    announce(run, files | _cfg_rules(model, run), table, machine)
    _train(model, run, machine, inputs=(project.weights, args.t_weights))


def _load(model: Darknet, weights: Path | None, args: argparse.Namespace) -> None:
    if weights and args.cutoff is not None:
        load_weights(model, weights, args.cutoff)
    elif weights:
        load_pretrained(model, weights, args.weights_classes)


def _cfg_rules(model: Darknet, run: Run) -> dict[str, object]:
    """What Darknet's loss reads in each head's section, to be shown."""
    if run.options.loss != "darknet":
        return {}
    shown: dict[str, object] = {}
    for head, rules in zip(model.network.heads, head_rules(model.network), strict=True):
        values = {name: value for name, value in asdict(rules).items() if name not in ("anchors", "mask")}
        shown[f"yolo #{head}"] = ", ".join(f"{name} {value}" for name, value in values.items())
    return shown


def _resume(args: argparse.Namespace, machine: Machine) -> None:
    other = _given(args, vars(args).keys() - _MACHINE)
    if other:
        raise ToolkitError("--resume", "the run continues with its own options", f"leave out {other}")
    path = newest_run(Path()) if args.resume == NEWEST else args.resume
    checkpoint = _read_run(path)
    state = checkpoint.training
    if checkpoint.cfg is None or not {"trainer", "context", "history"} <= state.keys():
        raise ToolkitError(path, "no run to continue", f"name its {LAST}, or start anew with --weights")
    run = replace(Run.from_mapping(state["context"]), output=path.parent)
    if machine.board:
        machine = replace(machine, board=run.output / "tensorboard")
    model = Darknet(Network.from_text(checkpoint.cfg, f"cfg in {path}"))
    model.header = checkpoint.header
    table: dict[str, tuple[object, str]] = {
        name: (value, "resumed") for name, value in run.options.to_mapping().items()
    }
    done = len(state["history"])
    shown = f"all {done}, only the report is left" if done >= run.options.epochs else done
    files: dict[str, object] = {"cfg": model.network.source, "resumed": path, "epochs done": shown}
    announce(run, files | _cfg_rules(model, run), table, machine)
    _train(model, run, machine, checkpoint=checkpoint)


def _read_run(path: Path) -> Checkpoint:
    """The checkpoint, or the one before it where that is damaged."""
    try:
        return read_checkpoint(path)
    except WeightsError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.exists():
            raise
        logger.warning("%s; continuing from %s", error, before)
        return read_checkpoint(before)


def _train(
    model: Darknet,
    run: Run,
    machine: Machine,
    *,
    inputs: Sequence[Path | None] = (),
    checkpoint: Checkpoint | None = None,
) -> None:
    require_writable(run.output, "choose another folder with --output DIR")
    data = read_data_file(run.data)
    loaders = open_loaders(
        data, model, run, machine.workers, machine.cache, machine.processes, machine.device
    )
    run = replace(run, threads=_choose_threads(model, run, machine))
    teacher = _teacher(run, machine.device)
    model.to(machine.device)
    objective = objective_of(model, run, teacher)
    is_first = machine.processes.is_first
    taught_by = run.t_weights and run.t_weights.resolve()
    machine.processes.barrier()  # all have read their inputs, so these may move
    moved = protect_inputs([run.output / name for name in OUTPUTS], inputs) if is_first else {}
    if taught_by:
        run = replace(run, t_weights=moved.get(taught_by, run.t_weights))
    extras = Extras(
        penalty=penalty_of(model, run),
        objective=objective,
        free_share=free_share_of(run, loaders, machine.device),
        processes=machine.processes,
        context=run.to_mapping(),
        save_seconds=60 * machine.save_minutes,
    )
    with ExitStack() as stack:
        observer = Observers(EpochBars(run.options.epochs, loaders.train, machine.processes))
        if machine.board and is_first:
            done = len(checkpoint.training["history"]) if checkpoint else 0
            board = stack.enter_context(Board(machine.board, done + 1))
            shown = (loaders.valid or loaders.train).dataset.images
            observer.add(Pictures(board, shown, loaders.names, run.options.image_size))
        train(model, loaders, run.options, run.output, observer=observer, extras=extras, resume=checkpoint)
    if is_first:
        report(model, data, run, machine, loaders.train)


def _choose_threads(model: Darknet, run: Run, machine: Machine) -> int:
    """What was asked for, else what a resumed run had, else what suits the network; returns the number.

    One thread for a network that is too small to gain from more, torch's own choice for others.
    """
    if machine.threads is not None or machine.device.type != "cpu":
        return torch.get_num_threads()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
        return run.threads
    macs = count_macs(model, run.options.image_size, model.network.channels(-1)) * run.options.batch_size
    if macs < ONE_THREAD_MACS:
        torch.set_num_threads(1)
    return torch.get_num_threads()


def _teacher(run: Run, device: torch.device) -> Teacher | None:
    if run.t_weights is None:
        return None
    model = open_files(run.t_cfg, run.t_weights)
    return Teacher(channels_last(model.to(device)), model.head_specs)
