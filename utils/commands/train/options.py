"""Options of the training command: files, and the hyper-parameters that are given.

A hyper-parameter is described once, in `TrainingOptions` or `Augment`. Here its field is None where it is not
given, so that the cfg or else the default applies, see `settings`.
"""

from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...data.augment import Augment
from ...errors import ToolkitError
from ...options import NON_NEGATIVE_INT, POSITIVE_FLOAT, POSITIVE_INT, check_ranges, given, option
from ...pruning.sparsity import ScheduleKind as SparsityScheduleKind
from ...pruning.sparsity import Sparsifier
from ...training.distillation import DistillationKind
from ...training.loop import LAST
from ...training.losses import LossKind
from ...training.optimizer import OptimizerKind, ScheduleKind
from ...training.options import Precision, TrainingOptions
from ..arguments import ImageSizeOptions, InputOptions, MachineOptions

PENALTY: float = 0.001
CANDIDATES: Literal[0, 1] = 1
OUTPUT = Path("weights")
NEWEST = Path("newest")
Kind = TypeVar("Kind", bound=type)


def not_given(*described: type) -> Callable[[Kind], Kind]:
    """A class decorator, written below `dataclass`: describes fields whose default is None.

    Args:
        described: dataclasses that have options of the same names; help text, range and spelling are copied
            from there, and the help text states the default.
    """
    known = {each.name: each for kind in described for each in fields(kind)}

    def describe(kind: Kind) -> Kind:
        for name in kind.__annotations__:
            if getattr(kind, name) is None:
                setattr(kind, name, field(default=None, metadata=_optional(known[name])))
        return kind

    return describe


def _optional(original: "Field[Any]") -> dict[str, Any]:
    """The metadata of an option that may be left out."""
    metadata, default = dict(original.metadata), original.default
    default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    if isinstance(default, bool):
        default = "on" if default else "off"
    unit = f" {metadata['unit']}" * bool(metadata["unit"])
    words = {"flags": ("--" + original.name.replace("_", "-"),), **metadata["argparse"]}
    if metadata["reader"] is not None:
        whole = metadata["reader"] in (POSITIVE_INT, NON_NEGATIVE_INT)
        words.setdefault("metavar", "N" if whole else "X")
    text = f"{metadata['help']} (default: {default}{unit}; {metadata['source']})"
    return {**metadata, "help": text, "unit": "", "source": "", "argparse": words}


@dataclass(frozen=True)
@not_given(TrainingOptions)
class RecipeOptions(ImageSizeOptions):
    """Length, steps and loss of a training."""

    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    optimizer: OptimizerKind | None = None
    learning_rate: float | None = None
    gamma_reach: float | None = None
    momentum: float | None = None
    decay: float | None = None
    schedule: ScheduleKind | None = None
    steps: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None
    cycle: float | None = None
    cycle_growth: float | None = None
    burn_in: float | None = None
    burn_in_power: float | None = None
    ema_epochs: float | None = None
    clip_norm: float | None = None
    freeze: int | None = None
    precision: Precision | None = None
    no_amp: bool = option(False, "no half precision; the same as --precision fp32", flags=("--no-amp",))
    compiled: bool = option(False, "compile the network with torch.compile", flags=("--compile",))
    loss: LossKind | None = None
    box_weight: float | None = None
    objectness_weight: float | None = None
    classes_weight: float | None = None
    iou_threshold: float | None = None
    neighbours: float | None = None
    balance: float | None = None
    iou_objectness: float | None = None
    box_kind: str | None = None
    label_smoothing: float | None = None


@dataclass(frozen=True)
@not_given(TrainingOptions, Augment)
class ImageOptions:
    """Changes of the training images, and how they are sampled."""

    flip: float | None = None
    hue: float | None = None
    saturation: float | None = None
    exposure: float | None = None
    scale: float | None = None
    aspect: float | None = None
    translate: float | None = None
    rotate: float | None = None
    shear: float | None = None
    mosaic: float | None = None
    mixup: float | None = None
    multi_scale: bool | None = None
    rectangular: bool | None = None
    balanced: bool | None = None
    no_augment: bool = option(False, "train on unchanged images", flags=("--no-augment",))


def _strength(text: str) -> float | str:
    return text if text == "auto" else POSITIVE_FLOAT(text)


@dataclass(frozen=True)
@not_given(TrainingOptions)
class SparsityOptions:
    """Sparse training; without `sparsity` nothing else of it may be given."""

    sparsity: bool = option(
        False, "sparse training: push the candidates' gammas to zero", flags=("-sr", "--sparsity")
    )
    s: float | Literal["auto"] | None = option(
        None,
        "weight of the penalty, or auto: adapted after each epoch so that --target-sparsity is reached at "
        f"--s-at. With adamw, s is relative to the size of the gradient (default: {PENALTY})",
        _strength,
    )
    prune: Literal[0, 1] | None = option(
        None,
        f"candidates: 0 without layers on shortcuts (prune.py), 1 all (default: {CANDIDATES})",
        int,
        choices=(0, 1),
    )
    classic: bool = option(False, "candidates of the published programs")
    sparsifier: Sparsifier | None = None
    s_schedule: tuple[SparsityScheduleKind, ...] | None = None
    s_at: float | None = None
    s_decay: float | None = None
    s_keep: float | None = None
    target_sparsity: float | None = None


@dataclass(frozen=True)
@not_given(TrainingOptions)
class DistillationOptions:
    """The teacher and how to learn from it."""

    t_cfg: Path | None = option(None, "cfg of the teacher", Path, metavar="CFG")
    t_weights: Path | None = option(None, "weights of the teacher", Path, metavar="FILE")
    distill: tuple[DistillationKind, ...] | None = None
    report: Path | None = option(
        None,
        "report of the pruning run that made the student (default: the .json beside --weights)",
        Path,
        metavar="JSON",
    )


def _cutoff(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else POSITIVE_INT(text)


@dataclass(frozen=True)
class ResultOptions:
    """What is loaded at the start, and where results go."""

    scratch: Literal["e", "b"] | None = option(
        None,
        "control experiment: train the pruned network from random weights, e for the same epochs or b for "
        "the same multiply-adds, by the figures of the .json beside --weights, which are not loaded",
        choices=("e", "b"),
    )
    cutoff: int | Literal["auto"] | None = option(
        None, "load the first N sections only, or auto", _cutoff, metavar="N"
    )
    weights_classes: int | None = option(
        None,
        "number of classes of a .weights file",
        POSITIVE_INT,
        metavar="N",
        flags=("--weights-classes",),
    )
    output: Path = option(OUTPUT, "folder of all results", Path, metavar="DIR")
    resume: Path | None = option(
        None,
        f"continue the run of this {LAST} with its own options (without FILE: the newest run below the "
        "current folder)",
        Path,
        nargs="?",
        const=NEWEST,
        metavar="FILE",
    )
    tensorboard: bool = option(False, "write event files for TensorBoard to the folder of the results")
    cache: Literal["ram", "disk", "none"] = option(
        "ram", "where decoded images are cached", choices=("ram", "disk", "none")
    )
    save_minutes: float = option(
        10.0,
        "also write a checkpoint within an epoch when the last one is older than this",
        POSITIVE_FLOAT,
        unit="minutes",
        metavar="X",
        flags=("--save-minutes",),
    )


# options of the machine, not of the run: these may be given with --resume
_WITH_RESUME = {"resume", "device", "workers", "threads", "cache", "save_minutes", "tensorboard", "command"}


@dataclass(frozen=True)
class TrainOptions(
    MachineOptions,
    ResultOptions,
    DistillationOptions,
    SparsityOptions,
    ImageOptions,
    RecipeOptions,
    InputOptions,
):
    """All options of train.py.

    With none of `cfg`, `data` and `weights` the demo's files apply.

    Raises:
        ToolkitError: one is out of range, contradicts another, or would have no effect.
    """

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.resume is not None:
            others = self.given_of(given(self).keys() - _WITH_RESUME)
            if others:
                raise ToolkitError(
                    "--resume", "the run continues with its own options", f"leave out {others}"
                )
            return
        if self.t_cfg and not self.t_weights:
            raise ToolkitError("--t_cfg", "a teacher needs weights as well", "add --t_weights")
        idle = "" if self.sparsity else self.given_of(each.name for each in fields(SparsityOptions))
        if idle:
            raise ToolkitError(idle, "without -sr there is no sparse training", "add -sr or leave it out")
        if self.distill and not self.t_weights:
            raise ToolkitError("--distill", "there is no teacher", "add --t_weights, and its --t_cfg")
        if self.scratch and not (self.weights or self.report):
            fact = "is a control experiment for a pruning run, and none is named"
            remedy = "give the pruned network's --weights, which are not loaded, or leave it out"
            raise ToolkitError("--scratch", fact, remedy)
        idle = self.given_of(("cutoff", "weights_classes"))
        if idle and self.scratch:
            raise ToolkitError(idle, "--scratch loads no weights", "leave out one of the two")
        if idle and not self.weights:
            raise ToolkitError(idle, "there are no weights to load", "add --weights or leave it out")

    def given_of(self, names: Iterable[str]) -> str:
        """Those of the options `names` that were given, for a message; empty if none was."""
        return ", ".join(f"--{name}" for name in sorted(given(self).keys() & set(names)))
