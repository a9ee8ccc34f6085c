"""The train command: which files, which options, what is shown and written."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from utils.commands.arguments import (
    Parser,
    add_common,
    add_data,
    add_network,
    next_command,
    positive_int,
    prepare,
    resolve,
)
from utils.commands.evaluate import evaluate_network, list_findings, open_split, print_evaluation
from utils.commands.progress import EpochBars, print_options
from utils.commands.project import Project, fresh_network, open_files
from utils.commands.training_options import (
    CANDIDATES,
    PENALTY,
    Run,
    add_sparsity_options,
    add_training_options,
    choose_augment,
    choose_options,
)
from utils.darknet.checkpoint import Checkpoint, load_pretrained, load_weights, read_checkpoint
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.data.dataset import DetectionDataset
from utils.data.listing import DataFile, read_data_file
from utils.data.loader import make_loader
from utils.errors import ToolkitError
from utils.files import protect_inputs, require_writable
from utils.frontends.darknet import gamma_penalty
from utils.profiling import count_macs
from utils.training.distillation import Teacher
from utils.training.loop import BEST, LAST, OUTPUTS, Loaders, train
from utils.training.optimizer import scaled_rate
from utils.training.precision import channels_last
from utils.training.processes import Processes, joined, local_device

OUTPUT = Path("weights")
# Up to here a second thread saves a quarter of a step at best, and makes it many times longer wherever
# something else, such as the processes that load images, needs a core: layers end sooner than threads meet.
ONE_THREAD_MACS = 5e9
# what --resume may be combined with: options of the machine, not of the run
_MACHINE = {"resume", "device", "workers", "threads", "command"}


@dataclass(frozen=True)
class Machine:
    """Where a run happens; changes its speed only. `threads` is None where none were asked for."""

    device: torch.device
    workers: int
    threads: int | None
    processes: Processes


def train_parser(manual: str | None) -> Parser:
    """The command line of train.py; `manual` is its help text."""
    parser = Parser(manual)
    add_network(parser)
    add_data(parser)
    add_training_options(parser)
    add_sparsity_options(parser)
    files = parser.add_argument_group("files")
    files.add_argument("--t_cfg", type=Path, metavar="CFG", help="network of a teacher")
    files.add_argument("--t_weights", type=Path, metavar="FILE", help="weights of the teacher")
    files.add_argument("--cutoff", type=_cutoff, metavar="N", help="load the first N sections only, or auto")
    files.add_argument("--weights-classes", type=positive_int, metavar="N", help="classes of a .weights file")
    files.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of all results")
    resume = f"continue the run of this {LAST}, with its own options (default: {OUTPUT / LAST})"
    files.add_argument("--resume", nargs="?", type=Path, const=OUTPUT / LAST, metavar="FILE", help=resume)
    add_common(parser)
    return parser


def _cutoff(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else positive_int(text)


def run_training(args: argparse.Namespace) -> None:
    """Train as the command line says, or resume.

    Raises:
        ToolkitError: a file cannot be used, options contradict each other, or the loss is not finite.
    """
    device = local_device(prepare(args))
    with joined(device) as processes:
        machine = Machine(device, args.workers, args.threads, processes)
        if args.resume is None:
            _start(args, machine)
        else:
            _resume(args, machine)


def _given(args: argparse.Namespace, names: Iterable[str]) -> str:
    """Those of the options `names` that were typed, for a message; empty if none was."""
    defaults = train_parser(None).parse_args([])
    typed = sorted(name for name in names if getattr(args, name) != getattr(defaults, name))
    return ", ".join(f"--{name}" for name in typed)


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """An option that would change nothing is a mistake to tell, not to pass over."""
    if args.t_cfg and not args.t_weights:
        raise ToolkitError("--t_cfg: given without weights, but a teacher needs both; add --t_weights")
    idle = "" if args.sparsity else _given(args, ("s", "prune", "classic"))
    if idle:
        raise ToolkitError(f"{idle}: without -sr there is no sparse training; add -sr or leave it out")
    idle = "" if args.weights else _given(args, ("cutoff", "weights_classes"))
    if idle:
        raise ToolkitError(f"{idle}: no weights to load are given; add --weights or leave it out")


def _start(args: argparse.Namespace, machine: Machine) -> None:
    _refuse_idle_options(args)
    project = resolve(args, needs=("cfg", "data"))
    model = fresh_network(project.network())
    options, table = choose_options(args, model.network)
    if project.weights and args.cutoff is not None:
        load_weights(model, project.weights, args.cutoff)
    elif project.weights:
        load_pretrained(model, project.weights, args.weights_classes)
    run = Run(
        cfg=project.cfg,
        data=project.needed("data"),
        t_cfg=args.t_cfg,
        t_weights=args.t_weights,
        output=args.output,
        s=(args.s or PENALTY) if args.sparsity else 0.0,
        prune=CANDIDATES if args.prune is None else args.prune,
        classic=args.classic,
        augment=not args.no_augment,
        is_demo=project.is_demo,
        options=options,
    )
    files = {"cfg": model.network.source, "weights": project.weights or "none, from scratch"}
    _announce(run, files, table, machine)
    _train(model, run, machine, inputs=(project.weights, args.t_weights))


def _resume(args: argparse.Namespace, machine: Machine) -> None:
    other = _given(args, vars(args).keys() - _MACHINE)
    if other:
        raise ToolkitError(f"--resume: the run continues with its own options; leave out {other}")
    checkpoint = read_checkpoint(args.resume)
    state = checkpoint.training
    if checkpoint.cfg is None or not all(state.get(key) for key in ("trainer", "history", "context")):
        raise ToolkitError(
            f"{args.resume}: no run to continue; name its {LAST}, or start anew with --weights"
        )
    run = replace(Run.from_mapping(state["context"]), output=args.resume.parent)
    model = Darknet(Network.from_text(checkpoint.cfg, f"cfg in {args.resume}"))
    model.header = checkpoint.header
    table: dict[str, tuple[object, str]] = {
        name: (value, "resumed") for name, value in run.options.to_mapping().items()
    }
    done = len(state["history"])
    shown = f"all {done}, only the report is left" if done >= run.options.epochs else done
    files = {"cfg": model.network.source, "resumed": args.resume, "epochs done": shown}
    _announce(run, files, table, machine)
    _train(model, run, machine, checkpoint=checkpoint)


def _announce(
    run: Run, files: Mapping[str, object], options: dict[str, tuple[object, str]], machine: Machine
) -> None:
    if not machine.processes.is_first:
        return
    sparsity = f"s = {run.s} on the candidates of --prune {run.prune}{' --classic' * run.classic}"
    rows = {**files, "data": run.data, "teacher": run.t_weights or "none"}
    rows |= {"output": run.output, "sparsity": sparsity if run.s else "none", "augment": run.augment}
    chosen, count = run.options, machine.processes.count
    images = chosen.batch_size * chosen.accumulate * count
    rate = scaled_rate(chosen.learning_rate, chosen.optimizer, images)
    rows |= {"step": f"{images} images, learning rate {rate:.3g}", "device": f"{machine.device} x {count}"}
    print_options({name: (value, "") for name, value in rows.items()} | options, "training")


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
    loaders = _open(data, model, run, machine)
    if machine.threads is None and machine.device.type == "cpu":
        _choose_threads(model, run)
    teacher = _teacher(run, machine.device)
    model.to(machine.device)
    is_first = machine.processes.is_first
    taught_by = run.t_weights and run.t_weights.resolve()
    machine.processes.barrier()  # all have read their inputs, so these may move
    moved = protect_inputs([run.output / name for name in OUTPUTS], inputs) if is_first else {}
    if taught_by:
        run = replace(run, t_weights=moved.get(taught_by, run.t_weights))
    train(
        model,
        loaders,
        run.options,
        run.output,
        observer=EpochBars(run.options.epochs, len(loaders.train), is_first),
        penalty=gamma_penalty(model, run.s, run.prune, run.classic),
        teacher=teacher,
        resume=checkpoint,
        processes=machine.processes,
        context=run.to_mapping(),
    )
    if is_first:
        _report(model, data, run, machine)
        for line in list_findings(loaders.train):
            print(f"train of {run.data}: {line}")
        files = [run.output / name for name in OUTPUTS]
        print("written: " + ", ".join(str(path) for path in files if path.exists()))
        next_command(*_next(run))


def _choose_threads(model: Darknet, run: Run) -> None:
    """One thread for a network that is too small to gain from more, torch's own choice for others."""
    macs = count_macs(model, run.options.image_size, model.network.channels(-1)) * run.options.batch_size
    if macs < ONE_THREAD_MACS:
        torch.set_num_threads(1)


def _open(data: DataFile, model: Darknet, run: Run, machine: Machine) -> Loaders:
    options = run.options
    dataset = DetectionDataset.from_split(
        data,
        "train",
        options.image_size,
        letterbox=model.network.letterbox,
        augment=choose_augment(model.network) if run.augment else None,
        cache="ram",
    )
    batches = make_loader(
        dataset,
        options.batch_size,
        shuffle=True,
        workers=machine.workers,
        seed=options.seed,
        drop_last=True,
        pin=machine.device.type == "cuda",
        distributed=machine.processes.count > 1,
    )
    valid = None
    if data.valid is not None and machine.processes.is_first:
        valid = open_split(
            data, "valid", model, options.image_size, batch_size=options.batch_size, workers=machine.workers
        )
    return Loaders(batches, valid, data.names)


def _teacher(run: Run, device: torch.device) -> Teacher | None:
    if run.t_weights is None:
        return None
    model = open_files(run.t_cfg, run.t_weights)
    return Teacher(channels_last(model.to(device)), model.head_specs)


def _report(model: Darknet, data: DataFile, run: Run, machine: Machine) -> None:
    """Evaluate the best network in full precision on the splits that exist."""
    best = _best(run)
    load_weights(model, best)
    for split in ("valid", "test"):
        if getattr(data, split) is None:
            continue
        loader = open_split(data, split, model, run.options.image_size, workers=machine.workers)
        title = f"{best} on {split} of {run.data}"
        print_evaluation(evaluate_network(model, loader, data.names, label=split), loader, title)


def _best(run: Run) -> Path:
    """best.pt; last.pt where that alone was copied to this folder and no epoch since was better."""
    best = run.output / BEST
    return best if best.exists() else run.output / LAST


def _next(run: Run) -> tuple[str, ...]:
    if not run.s:
        return "python export.py", Project(run.cfg, None, _best(run), is_demo=False).options()
    is_demo = run.is_demo and run.output == OUTPUT
    files = Project(run.cfg, run.data, run.output / LAST, is_demo)
    return "python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01"
