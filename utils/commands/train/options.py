"""What decides a training run: what was typed, else what the cfg says, else the measured default."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ...darknet.network import Network
from ...data.augment import Augment
from ...detection.boxes import OVERLAP_KINDS
from ...errors import ToolkitError
from ...options import (
    AT_LEAST_ONE,
    FRACTION,
    FRACTION_BELOW_ONE,
    NON_NEGATIVE_FLOAT,
    NON_NEGATIVE_INT,
    POSITIVE_FLOAT,
    POSITIVE_FRACTION,
    POSITIVE_INT,
)
from ...pruning.sparsity import SPARSIFIERS, parse_schedules
from ...training.distillation import parse_kinds
from ...training.losses import LOSSES
from ...training.options import TrainingOptions
from ...training.precision import PRECISIONS
from ...training.schedule import SCHEDULES
from ..arguments import Options, Parser, add_image_size
from .cfg_defaults import COLOUR_READERS, LOSS_READERS, augment_of, cfg_defaults

PENALTY: float = 0.001
AUTO_START: float = 0.001  # where auto begins: three times it broke a pretrained network's first epochs
CANDIDATES: Literal[0, 1] = 1


@dataclass(frozen=True)
class Run:
    """All that decides a run's result; kept in last.pt to resume from.

    Attributes:
        cfg, data: files of the network and of the data set; cfg None where the first weights carried it.
        t_cfg, t_weights: files of the teacher; weights None without one, cfg None where they carry it.
        report: of the pruning run that made the student, for feature distillation; None without.
        output: folder of the results.
        prune, classic: which gammas are candidates, see `gamma_penalty`.
        is_demo: whether the files are the demo's.
        options: of the training loop.
        threads: of torch on a CPU; only with as many is a resumed run bitwise the same. None: not known.
        scratch: kind of the control that this is, see `random_init`; None for another training.
    """

    cfg: Path | None
    data: Path
    t_cfg: Path | None
    t_weights: Path | None
    report: Path | None
    output: Path
    prune: Literal[0, 1]
    classic: bool
    is_demo: bool
    options: TrainingOptions
    threads: int | None = None
    scratch: Literal["e", "b"] | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Run":
        """Inverse of `to_mapping`."""
        paths = {
            key: None if mapping[key] is None else Path(mapping[key])
            for key in ("cfg", "data", "t_cfg", "t_weights", "report", "output")
        }
        return cls(**{**mapping, **paths, "options": TrainingOptions.from_mapping(mapping["options"])})


def _several(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    def parse(text: str) -> tuple[float, ...]:
        return tuple(kind(part) for part in text.split(",") if part.strip())

    return parse


def _sum_of(parse: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    def checked(text: str) -> tuple[str, ...]:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _strength(text: str) -> float | str:
    return text if text == "auto" else POSITIVE_FLOAT(text)


# how each option is read: a function from text, or what may be chosen
_READERS: Mapping[str, Any] = MappingProxyType(
    {
        "epochs": POSITIVE_INT, "batch_size": POSITIVE_INT, "accumulate": POSITIVE_INT,
        "optimizer": ("adamw", "sgd"), "learning_rate": POSITIVE_FLOAT, "gamma_reach": POSITIVE_FLOAT,
        "momentum": FRACTION_BELOW_ONE, "decay": FRACTION, "schedule": SCHEDULES, "steps": _several(FRACTION),
        "scales": _several(POSITIVE_FLOAT), "cycle": POSITIVE_FRACTION, "cycle_growth": AT_LEAST_ONE,
        "burn_in": NON_NEGATIVE_FLOAT, "burn_in_power": POSITIVE_FLOAT, "ema_epochs": NON_NEGATIVE_FLOAT,
        "clip_norm": POSITIVE_FLOAT, "freeze": NON_NEGATIVE_INT, "precision": PRECISIONS,
        "loss": LOSSES, **LOSS_READERS, "box_kind": OVERLAP_KINDS, "label_smoothing": FRACTION,
    }
)  # fmt: skip
_SPARSE: Mapping[str, Any] = MappingProxyType(
    {
        "sparsifier": SPARSIFIERS, "s_schedule": _sum_of(parse_schedules), "s_at": FRACTION,
        "s_decay": FRACTION, "s_keep": FRACTION, "target_sparsity": FRACTION,
    }
)  # fmt: skip
_CHANGES: Mapping[str, Any] = MappingProxyType(
    {
        "flip": FRACTION, **COLOUR_READERS, "scale": POSITIVE_FLOAT, "aspect": POSITIVE_FLOAT,
        "translate": FRACTION,
        "rotate": NON_NEGATIVE_FLOAT, "shear": NON_NEGATIVE_FLOAT, "mosaic": FRACTION, "mixup": FRACTION,
    }
)  # fmt: skip
_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"learning_rate": ("--lr",), "burn_in": ("--warmup-epochs",)}
)
# what only means something with one schedule, or with the modern loss
_COURSES: Mapping[str, str] = MappingProxyType(
    {"steps": "steps", "scales": "steps", "cycle": "sgdr", "cycle_growth": "sgdr"}
)
# distillation's positives have an iou_threshold too
MODERN = LOSS_READERS.keys() - {"iou_threshold"} | {"box_kind", "label_smoothing"}
# what only means something with -sr
SPARSE_OPTIONS = ("s", "prune", "classic", *_SPARSE)


def add_training_options(parser: Parser) -> None:
    """Add the options of `TrainingOptions`; None stands for not given."""
    group = parser.add_argument_group("training", "a default with a source in brackets comes from there")
    known = {field.name: field for field in fields(TrainingOptions)}
    add_image_size(group)
    for name, reader in _READERS.items():
        _add(group, known[name], reader)
    group.add_argument("--no-amp", action="store_true", help="no half precision, as --precision fp32")
    group.add_argument("--compile", dest="compiled", action="store_true", default=None, help="torch.compile")
    images = parser.add_argument_group("training images")
    changes = {field.name: field for field in fields(Augment)}
    for name, reader in _CHANGES.items():
        _add(images, changes[name], reader)
    for name in ("multi_scale", "rectangular", "balanced"):
        flag = "--" + name.replace("_", "-")
        text = known[name].metadata["unit"]
        images.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    images.add_argument("--no-augment", action="store_true", help="train on the images as they are")


def add_sparsity_options(parser: Parser) -> None:
    """Add -sr and what refines it; None stands for not given, since without -sr it must not be."""
    sparse = parser.add_argument_group("sparse training")
    sparse.add_argument("-sr", "--sparsity", action="store_true", help="push the candidates' gammas to zero")
    weight = (
        "weight of the penalty, or auto: chosen from epoch to epoch, to reach --target-sparsity at --s-at. "
        f"AdamW normalises its steps, so there s acts relative to the gradient's size (default: {PENALTY})"
    )
    sparse.add_argument("--s", type=_strength, help=weight)
    candidates = f"candidates: 0 no shortcuts, 1 all (default: {CANDIDATES})"
    sparse.add_argument("--prune", type=int, choices=[0, 1], help=candidates)
    sparse.add_argument("--classic", action="store_true", help="candidates of the published programs")
    known = {field.name: field for field in fields(TrainingOptions)}
    for name, reader in _SPARSE.items():
        _add(sparse, known[name], reader)


def add_distillation_options(parser: Parser) -> None:
    """Add the teacher and how to learn from it."""
    group = parser.add_argument_group("distillation")
    group.add_argument("--t_cfg", type=Path, metavar="CFG", help="network of a teacher")
    group.add_argument("--t_weights", type=Path, metavar="FILE", help="weights of the teacher")
    kinds = "classic1, classic2, sigmoid, feature or a sum such as sigmoid+feature (default: classic2)"
    group.add_argument("--distill", type=_sum_of(parse_kinds), metavar="KINDS", help=kinds)
    report = "of the pruning run that made the student (default: the .json beside --weights)"
    group.add_argument("--report", type=Path, metavar="JSON", help=report)


def _add(group: Options, field: "Field[Any]", reader: Any) -> None:
    """Add one option; its default and source are told, but filled in by `choose_options`."""
    name, default = field.name, field.default
    flags = ["--" + name.replace("_", "-"), *_ALIASES.get(name, ())]
    default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    source = field.metadata.get("source", "")
    text = f"{field.metadata.get('unit', '')} (default: {default}{f'; {source}' * bool(source)})".strip()
    if isinstance(reader, tuple):
        group.add_argument(*flags, choices=reader, help=text.replace("%", "%%"))
    else:
        metavar = "N" if reader in (POSITIVE_INT, NON_NEGATIVE_INT) else "X"
        group.add_argument(*flags, type=reader, metavar=metavar, help=text.replace("%", "%%"))


def choose_options(
    args: argparse.Namespace, network: Network
) -> tuple[TrainingOptions, dict[str, tuple[object, str]]]:
    """The options of a run and, by name, their value and where it comes from.

    Raises:
        CfgError: a value in the cfg is none that the option of that name could have.
    """
    given = {field.name: getattr(args, field.name, None) for field in fields(TrainingOptions)}
    given["image_size"], given["seed"] = args.img_size, args.seed or None
    if args.no_amp and given["precision"] is None:
        given["precision"] = "fp32"
    given["s"] = _weight(args)
    given["s_auto"] = args.s == "auto"
    # these are values, not choices that were typed
    given["augment"] = None if args.no_augment else _augment(args, network)
    of_cfg = cfg_defaults(network, args.optimizer, args.loss, {"epochs": args.epochs})
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in fields(TrainingOptions):
        name = field.name
        found = ((given[name], "given"), (of_cfg.get(name), "cfg"), (field.default, "default"))
        values[name], origins[name] = next((pair for pair in found if pair[0] is not None), (None, "given"))
    if not given["augment"]:
        values["augment"] = None
    options = TrainingOptions(**values)
    _check(args, options)
    table: dict[str, tuple[object, str]] = {
        name: (value, origins[name]) for name, value in options.to_mapping().items()
    }
    if options.augment:
        table["augment"] = (table["augment"][0], _augment_origin(args, network))
    return options, table


def _check(args: argparse.Namespace, options: TrainingOptions) -> None:
    """Refuse what contradicts itself, and what was typed and would change nothing.

    Raises:
        ToolkitError: the options and the remedy.
    """
    if len(options.steps) != len(options.scales):
        fact = f"{len(options.steps)} of them, but {len(options.scales)} --scales"
        raise ToolkitError("--steps", fact, "give equally many of both")
    idle = {f"--schedule {options.schedule}": other_courses(options.schedule)}
    if options.loss == "darknet":
        idle["--loss darknet, which reads the cfg"] = MODERN
    if options.augment is None:
        idle["--no-augment"] = set(_CHANGES)
    for where, names in idle.items():
        typed = [f"--{name}" for name in sorted(names) if getattr(args, name) is not None]
        if typed:
            raise ToolkitError(f"{', '.join(typed)}", f"without effect with {where}", "leave it out")


def other_courses(schedule: str) -> set[str]:
    """Options that only mean something with another schedule than this."""
    return {name for name, kind in _COURSES.items() if kind != schedule}


def _weight(args: argparse.Namespace) -> float:
    if not args.sparsity:
        return 0.0
    if args.s == "auto":
        return AUTO_START
    return PENALTY if args.s is None else float(args.s)


def _augment_origin(args: argparse.Namespace, network: Network) -> str:
    typed = any(getattr(args, name) is not None for name in _CHANGES)
    sources = {"given": typed, "cfg": bool(augment_of(network)), "default": True}
    return ", ".join(name for name, has in sources.items() if has)


def _augment(args: argparse.Namespace, network: Network) -> Augment:
    """The changes of training images: typed, else of the cfg, else Augment's own."""
    of_cfg = augment_of(network)
    typed = {name: getattr(args, name) for name in _CHANGES if getattr(args, name) is not None}
    return Augment(**{**of_cfg, **typed})
