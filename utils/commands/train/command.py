"""Train a network: from scratch, from given weights, sparsely before pruning, or fine-tune it afterwards.

    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/yolov3.weights
    python train.py --cfg cfg/yolov3.cfg --data data/my.data --weights weights/best.pt -sr --s 0.001 --prune 1
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights \\
        --t_cfg cfg/yolov3.cfg --t_weights weights/best.pt
    python train.py --cfg cfg/small.cfg --data data/my.data --weights weights/small.weights --scratch b
    python train.py --resume

Sparse training (-sr) pushes exactly the batch-norm gammas to zero that pruning will judge: --prune 0 for
prune.py, which leaves shortcuts alone, --prune 1 for the other strategies; --classic for the narrower sets of
the published programs. After each epoch it reports the share of the channels that can be removed without
changing the outputs ("free"). With a teacher (--t_cfg, --t_weights) a pruned network learns from the network
that it was pruned from. Weights for another number of classes are loaded except for the heads, which are
re-initialized. --scratch trains the pruned network from random weights, for the same epochs (e) or the same
multiply-adds (b): the control experiment that shows the gain from inherited weights.

The folder --output receives last.pt (to resume, and what pruning reads), previous.pt (the checkpoint before
it), best.pt (highest validation mAP@0.5), history.csv, history.png and gammas.png. An input file of the same
name is renamed first. Options that are not given come from the cfg ([net], and jitter and random of the last
head) or have a measured default; the table at the start shows the source of each. --resume without a file
continues the newest run; Ctrl-C and SIGTERM save a checkpoint first.
With none of --cfg, --data, --weights the small demo network is trained on a generated data set.
Several processes: torchrun --nproc-per-node 2 -- train.py ... (the -- keeps torchrun from reading --s itself)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from ...data.listing import read_data_file
from ...errors import ToolkitError
from ...options import add_options, from_arguments
from ...profiling import count_parameters
from ...training.loop import OUTPUTS
from ...training.trainer import channels_last
from ..arguments import InputOptions, MachineOptions, Parser, next_command
from ..evaluate.command import print_evaluation
from ..evaluate.run import Fit, data_problems, evaluate_network, open_split
from ..inputs import DemoFiles, InputFiles, open_files
from ..output import percent, read_report, show
from .options import (
    DistillationOptions,
    ImageOptions,
    RecipeOptions,
    ResultOptions,
    SparsityOptions,
    TrainOptions,
)
from .progress import Display
from .run import TrainingResult, train
from .settings import RunSettings


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and print the results."""
    options = from_arguments(TrainOptions, train_parser().parse_args(argv))
    result = train(options, Display())
    if result.is_first:
        _report(result, options.workers)
        next_command(*_next(result))


def train_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "train")
    add_options(parser, InputOptions)
    from_cfg = "after each default its source; values in [net] and [yolo] of the cfg win over defaults"
    add_options(parser.add_argument_group("training", from_cfg), RecipeOptions)
    add_options(parser.add_argument_group("training images"), ImageOptions)
    add_options(parser.add_argument_group("sparse training"), SparsityOptions)
    add_options(parser.add_argument_group("distillation"), DistillationOptions)
    add_options(parser.add_argument_group("files"), ResultOptions)
    add_options(parser.add_argument_group("machine"), MachineOptions)
    return parser


def _report(result: TrainingResult, workers: int) -> None:
    """Evaluate the best network in full precision on the splits that exist; print what was written."""
    settings = result.settings
    data, size = read_data_file(settings.data), settings.options.image_size
    model = channels_last(open_files(None, result.best).to(result.device))
    reached: dict[str, float] = {}
    for split in ("valid", "test"):
        if getattr(data, split) is None:
            continue
        fit: Fit = "rect" if settings.options.rectangular else "cfg"
        loader = open_split(data, split, model, size, fit=fit, workers=workers)
        evaluation = evaluate_network(model, loader, data.names, label=split)
        print_evaluation(evaluation, data_problems(loader), f"{result.best} on {split} of {settings.data}")
        reached[split] = evaluation.map50
    for line in result.problems:
        print(f"train of {settings.data}: {line}")
    print_comparison(settings, count_parameters(model), reached)
    files = [settings.output / name for name in OUTPUTS]
    print("written: " + ", ".join(str(path) for path in files if path.exists()))


def print_comparison(settings: RunSettings, parameters: int, reached: Mapping[str, float]) -> None:
    """Print mAP before and after pruning beside what the training reached, if it continues a pruning run.

    Args:
        settings: of a run that has ended.
        parameters: of its network.
        reached: mAP@0.5 as a fraction of its best network, by split.
    """
    lines = _before(settings, parameters)
    if not lines or "valid" not in reached:
        return
    began = "trained sparsely" if settings.options.s else "fine-tuned"
    began = f"from random weights (--scratch {settings.scratch})" if settings.scratch else began
    taught = ", with a teacher" if settings.t_weights else ""
    lines.append((f"{began}{taught}, best of {settings.options.epochs} epochs", reached["valid"]))
    table = Table("network")
    table.add_column("mAP@0.5", justify="right")
    for name, value in lines:
        table.add_row(name, percent(value))
    show(f"validation images, compared with the pruning run of {settings.report}", table)


def _before(settings: RunSettings, parameters: int) -> list[tuple[str, float]]:
    """The unpruned and the pruned network and their mAP, if evaluated in the same way; else nothing."""
    try:
        report = read_report(settings.report) if settings.report else {}
        judged = Path(report["arguments"]["data"]).resolve(), tuple(report["image_size"])
        lines = [("unpruned", report["before"]["map50"]), ("pruned", report["compact"]["map50"])]
        is_this = report["after"]["parameters"] == parameters
    except (ToolkitError, KeyError, TypeError):
        return []
    same = is_this and judged == (settings.data.resolve(), tuple(settings.options.image_size))
    return lines if same and all(isinstance(value, float) for _, value in lines) else []


def _next(result: TrainingResult) -> tuple[str, ...]:
    settings = result.settings
    if not settings.options.s:
        files = InputFiles(settings.cfg, None, result.best, is_demo=False)
        return "python export.py", files.options()
    is_demo = settings.is_demo and settings.output == DemoFiles.here().weights.parent
    files = InputFiles(settings.cfg, settings.data, result.last, is_demo)
    return "python slim_prune.py", files.options(), "--global_percent 0.8 --layer_keep 0.01"
