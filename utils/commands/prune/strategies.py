"""The five pruning commands: their manuals and command lines, and what they print."""

from collections.abc import Callable, Sequence

from rich.table import Table

from ...options import Group, add_options, from_arguments
from ...pruning.report import PruningReport
from ..arguments import Parser, add_machine, next_command
from ..output import bar, mebibytes, milliseconds, multiply_adds, percent, show
from .explain import show_explanation, show_what_if
from .options import BUDGET, STRATEGY_OPTIONS, PruningOptions, Strategy
from .run import PruningOutcome
from .run import prune as run_prune

SLIM_PRUNE = """Prune channels by one threshold over the whole network; every layer keeps a minimum share.

    python slim_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data \\
        --global_percent 0.8 --layer_keep 0.01

All batch-norm gammas of the network are ranked together; the channels with the lowest --global_percent of
them are removed. Channels that a shortcut adds are kept if one of them is above the threshold. The weights
should come from sparse training: python train.py -sr --s 0.001 --prune 1

In place of a share, give limits; the best network within them is searched for and measured:

    python slim_prune.py ... --max-ms 12 --runtime onnxruntime
    python slim_prune.py ... --max-macs 50% --max-mb 4
    python slim_prune.py ... --min-map 0.78
"""

PRUNE = """Prune channels by one threshold, except channels that a shortcut adds.

    python prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

The batch-norm gammas of all channels that no shortcut adds are ranked together; the channels with the lowest
--percent of them are removed. The weights should come from sparse training:
python train.py -sr --s 0.001 --prune 0
"""

SHORTCUT_PRUNE = """Prune channels by one threshold; in each shortcut group, the first layer decides.

    python shortcut_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --percent 0.7

As prune.py, but channels that shortcuts add are candidates too: the gammas of the first layer of such a group
are ranked, and the other layers of the group keep the channels that it keeps. slim_prune.py, where every
layer of a group has a vote, is usually the better choice. Train with: python train.py -sr --s 0.001 --prune 1
"""

LAYER_PRUNE = """Remove whole residual blocks: fewer layers save more time than narrower ones.

    python layer_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data --shortcuts 8

A block is a shortcut with the layers between it and the layer that it adds. The score of a block is the mean
gamma of the layer right before its shortcut; the --shortcuts blocks with the lowest scores are removed, and
replaced by their input. An activation after the sum is kept, as an [activation] section.
"""

LAYER_CHANNEL_PRUNE = """Prune channels as slim_prune.py and residual blocks as layer_prune.py, in one run.

    python layer_channel_prune.py --cfg cfg/yolov3.cfg --weights weights/last.pt --data data/my.data \\
        --shortcuts 12 --global_percent 0.8 --layer_keep 0.01

Blocks are scored by the gammas of the unpruned network. With --classic they are scored after their channels
were pruned, as in the published program, which rates blocks the higher the more channels they lost.
"""

# stage -> column title, so that the table fits into 80 columns
_TITLES = {
    "gamma_masked": "gamma_\nmasked",
    "recalibrated": "recali-\nbrated",
    "last_pruned": "last\npruned",
    "fine_tuned": "fine-\ntuned",
}


def slim_prune(argv: Sequence[str] | None = None) -> None:
    """Run `slim-prune`."""
    _run("slim_prune", SLIM_PRUNE, argv)


def prune(argv: Sequence[str] | None = None) -> None:
    """Run `prune`."""
    _run("prune", PRUNE, argv)


def shortcut_prune(argv: Sequence[str] | None = None) -> None:
    """Run `shortcut-prune`."""
    _run("shortcut_prune", SHORTCUT_PRUNE, argv)


def layer_prune(argv: Sequence[str] | None = None) -> None:
    """Run `layer-prune`."""
    _run("layer_prune", LAYER_PRUNE, argv)


def layer_channel_prune(argv: Sequence[str] | None = None) -> None:
    """Run `layer-channel-prune`."""
    _run("layer_channel_prune", LAYER_CHANNEL_PRUNE, argv)


def prune_parser(strategy: Strategy, manual: str | None) -> Parser:
    """The command line of a strategy."""
    own = STRATEGY_OPTIONS[strategy]
    parser = Parser(manual, strategy.replace("_", "-"))
    files = ("cfg", "weights", "data", "img_size", "batch_size", "output")
    _add(parser, *files, *(name for name in own if name not in BUDGET))
    kept = parser.add_argument_group("what is kept")
    _add(kept, "score", "align", "min_channels", "keep_sections", "classic")
    _add(kept.add_mutually_exclusive_group(), "explain", "what_if")
    after = parser.add_argument_group("after pruning")
    _add(after, "fold", "recalibrate", "verify", "report", "no_eval")
    if "max_ms" in own:
        _add(parser.add_argument_group("budgets, in place of a share; they can be combined"), *BUDGET)
    add_machine(parser)
    return parser


def _add(group: Group, *names: str) -> None:
    add_options(group, PruningOptions, names)


def _run(strategy: Strategy, manual: str, argv: Sequence[str] | None) -> None:
    """Parse the command line, then answer its question, or prune and print the result."""
    parsed = prune_parser(strategy, manual).parse_args(argv)
    options = from_arguments(PruningOptions, parsed, strategy=strategy)
    if options.what_if is not None:
        show_what_if(options, options.what_if)
    elif options.explain is not None:
        show_explanation(options, options.explain)
    elif options.iterative > 1:
        from ..train.command import Display  # loads all of training

        _show(run_prune(options, track=bar, observer=Display()))
    else:
        _show(run_prune(options, track=bar))


def _show(outcome: PruningOutcome) -> None:
    report, files = outcome.report, outcome.files
    show(f"{files.cfg.stem} at {report.image_size[1]}x{report.image_size[0]}", _table(report))
    for line in _lines(report):
        print(line)
    print("written: " + ", ".join(str(path) for path in files.written(outcome.has_page)))
    next_command(outcome.following)


def _table(report: PruningReport) -> Table:
    """The mAP of each stage, its change in percentage points; the costs, the share that is left."""
    before, after = report.before, report.after
    table = Table()
    stages = list(report.map50)
    for column in ("", *(_TITLES.get(stage, stage) for stage in stages), "left"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    if before.map50 is not None and after.map50 is not None:
        change = f"{100 * (after.map50 - before.map50):+.2f} pp"
        table.add_row("mAP@0.5", *(percent(value) for value in report.map50.values()), change)

    def row(name: str, old: float, new: float, text: Callable[[float], str]) -> None:
        between = [""] * (len(stages) - 2)
        table.add_row(name, text(old), *between, text(new), f"{100 * new / old:.1f} %")

    row("parameters", before.parameters, after.parameters, lambda value: f"{value:,.0f}")
    row("MACs", before.macs, after.macs, multiply_adds)
    row(".weights size", before.file_size, after.file_size, mebibytes)
    if before.latency is not None and after.latency is not None:
        row("latency p50", before.latency.p50, after.latency.p50, milliseconds)
        row("latency p95", before.latency.p95, after.latency.p95, milliseconds)
    return table


def _lines(report: PruningReport) -> Sequence[str]:
    """What was removed, and the checks."""
    changed = [section for section in report.sections if not section.removed and not section.mask.all()]
    total = sum(len(section.mask) for section in report.sections)
    kept = sum(int(section.mask.sum()) for section in report.sections)
    lines = [f"{kept:,} of {total:,} filters kept, {len(changed)} sections narrowed"]
    if report.removed_blocks:
        shortcuts = ", ".join(map(str, report.removed_blocks))
        count, s = len(report.removed_blocks), "s" if len(report.removed_blocks) > 1 else ""
        lines.append(f"{count} block{s} removed: shortcut{s} {shortcuts}")
    if report.threshold is not None:
        lines.append(f"threshold: {report.threshold:.6g}")
    lines.append("checks, largest difference of outputs relative to the largest output:")
    lines += [f"  {check}" for check in report.ledger]
    if latency := report.after.latency:
        how = f"threads {latency.threads}, {latency.rounds} interleaved rounds"
        lines.append(f"latency: {report.timed_on}, batch 1, batch norms fused, {how}")
    return [*lines, *(f"note: {note}" for note in report.notes)]
