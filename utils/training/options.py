"""All hyper-parameters of a training run: help text, range, unit, default and its source, once each.

They are fixed before the run starts, printed with their origin, and stored in its checkpoints. "measured"
refers to the tables of docs/results/training.md.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ..data.augment import Augment
from ..detection.boxes import OVERLAP_KINDS
from ..errors import ToolkitError
from ..options import (
    AT_LEAST_ONE,
    FRACTION,
    FRACTION_BELOW_ONE,
    NON_NEGATIVE_FLOAT,
    NON_NEGATIVE_INT,
    POSITIVE_FLOAT,
    POSITIVE_FRACTION,
    POSITIVE_INT,
    Range,
    check_ranges,
    option,
)
from ..pruning.sparsity import SPARSIFIERS, Sparsifier, SparsitySchedule, parse_schedules
from ..pruning.sparsity import ScheduleKind as SparsityScheduleKind
from .distillation import DistillationKind, parse_kinds
from .losses import LOSSES, LossKind, LossWeights
from .optimizer import SCHEDULES, OptimizerKind, ScheduleKind

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PUBLISHED = "published programs"


def several(kind: Range[float]) -> Callable[[str], tuple[float, ...]]:
    """A reader of numbers separated by commas.

    >>> several(FRACTION)(".8,.9")
    (0.8, 0.9)
    """
    return lambda text: tuple(kind(part) for part in text.split(",") if part.strip())


def sum_of(parse: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    """A reader of words joined by "+", whose ValueError becomes what argparse expects."""

    def checked(text: str) -> tuple[str, ...]:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


@dataclass(frozen=True)
class TrainingOptions:
    """The hyper-parameters of `loop.train`.

    Raises:
        ToolkitError: one is out of range.
    """

    epochs: int = option(
        100, "passes over the training images", POSITIVE_INT, source="common practice; [net] max_epochs"
    )
    batch_size: int = option(
        8, "images of a forward pass, per process", POSITIVE_INT, source="[net] batch / subdivisions"
    )
    accumulate: int = option(
        1, "forward passes per optimizer step", POSITIVE_INT, source="[net] subdivisions"
    )
    image_size: tuple[int, int] = option(
        (416, 416), "input height and width", POSITIVE_INT, unit="pixels", source="[net] height, width"
    )
    seed: int = option(0, "seed of all random numbers", NON_NEGATIVE_INT, source="any")

    optimizer: OptimizerKind = option(
        "adamw", "optimizer", choices=("adamw", "sgd"), source="measured; arXiv 1711.05101"
    )
    learning_rate: float = option(
        0.001,
        "learning rate for a step of 64 images; scaled to the batch",
        POSITIVE_FLOAT,
        source="[net] learning_rate",
        flags=("--learning-rate", "--lr"),
    )
    gamma_reach: float = option(
        3.0,
        "how far a gamma can move during the run, in mean gammas of its layer (adamw)",
        POSITIVE_FLOAT,
        source="measured",
    )
    momentum: float = option(0.9, "momentum, beta1 of adamw", FRACTION_BELOW_ONE, source="[net] momentum")
    decay: float = option(
        0.0005, "weight decay of convolution weights, per step", FRACTION, source="[net] decay"
    )
    schedule: ScheduleKind = option(
        "cosine", "learning-rate schedule", choices=SCHEDULES, source="[net] policy; arXiv 1608.03983"
    )
    steps: tuple[float, ...] = option(
        (0.8, 0.9),
        "when the learning rate drops, in fractions of the training (--schedule steps)",
        several(FRACTION),
        source="[net] steps / max_batches",
    )
    scales: tuple[float, ...] = option(
        (0.1, 0.1), "factors on the learning rate at --steps", several(POSITIVE_FLOAT), source="[net] scales"
    )
    cycle: float = option(
        1.0,
        "length of the first cycle as a fraction of the training (--schedule sgdr)",
        POSITIVE_FRACTION,
        source="[net] sgdr_cycle / max_batches",
    )
    cycle_growth: float = option(
        2.0, "factor on the length from cycle to cycle", AT_LEAST_ONE, source="[net] sgdr_mult"
    )
    burn_in: float = option(
        2.0,
        "length of the warm-up, at most a third of the training",
        NON_NEGATIVE_FLOAT,
        unit="epochs",
        source="measured; [net] burn_in",
        flags=("--burn-in", "--warmup-epochs"),
    )
    burn_in_power: float = option(
        1.0,
        "exponent of the warm-up: learning rate * (fraction of it done) ** exponent",
        POSITIVE_FLOAT,
        source="arXiv 1706.02677; [net] power",
    )
    ema_epochs: float = option(
        1.0,
        "length of the moving average of the weights; 0: no average",
        NON_NEGATIVE_FLOAT,
        unit="epochs",
        source="measured",
    )
    clip_norm: float = option(
        10.0,
        "largest norm of the loss's gradient, without the penalty",
        POSITIVE_FLOAT,
        source="arXiv 1211.5063",
    )
    freeze: int = option(
        0, "number of first sections that are frozen", NON_NEGATIVE_INT, source="transfer learning"
    )
    precision: Precision = option(
        "auto", "number type of convolutions", choices=PRECISIONS, source="arXiv 1710.03740"
    )
    compiled: bool = option(
        False,
        "compile the network with torch.compile",
        flags=("--compile",),
        source="measured: no faster on CPUs",
    )

    loss: LossKind = option("modern", "loss function", choices=LOSSES, source="measured")
    box_weight: float = option(
        LossWeights.box_weight, "factor on the box loss", NON_NEGATIVE_FLOAT, source="measured"
    )
    objectness_weight: float = option(
        LossWeights.objectness_weight, "factor on the objectness loss", NON_NEGATIVE_FLOAT, source="measured"
    )
    classes_weight: float = option(
        LossWeights.classes_weight, "factor on the class loss", NON_NEGATIVE_FLOAT, source="measured"
    )
    box_kind: str = option(
        LossWeights.box_kind,
        "overlap measure of the box loss",
        choices=OVERLAP_KINDS,
        source="arXiv 1911.08287",
    )
    iou_threshold: float = option(
        LossWeights.iou_threshold,
        "width-height IoU above which an anchor is a positive",
        FRACTION,
        source="measured",
    )
    neighbours: float = option(
        LossWeights.neighbours,
        "how far outside a cell a box centre may be for the cell to be a positive",
        FRACTION,
        unit="cells",
        source="measured",
    )
    balance: float = option(
        LossWeights.balance,
        "objectness weights of the heads: 0 by number of cells, 1 equal",
        FRACTION,
        source="measured",
    )
    iou_objectness: float = option(
        LossWeights.iou_objectness,
        "share of the IoU in the objectness target of a positive",
        FRACTION,
        source="measured",
    )
    label_smoothing: float = option(
        LossWeights.label_smoothing,
        "share of a class target that is spread over all classes",
        FRACTION,
        source="arXiv 1512.00567",
    )

    s: float = option(
        0.0,
        "weight of the sparsity penalty; 0: no penalty",
        NON_NEGATIVE_FLOAT,
        source="0.001 in the published programs",
    )
    sparsifier: Sparsifier = option(
        "l1", "form of the penalty", choices=SPARSIFIERS, source="Liu et al. 2017"
    )
    s_schedule: tuple[SparsityScheduleKind, ...] = option(
        ("constant",),
        "schedule of s: constant, global (over the epochs), local (by gamma), or a sum such as global+local",
        sum_of(parse_schedules),
        source=PUBLISHED,
    )
    s_at: float = option(
        0.5,
        "fraction of the epochs after which s decays, or --s auto has reached its target",
        FRACTION,
        source=PUBLISHED,
    )
    s_decay: float = option(0.01, "factor on s when it decays", FRACTION, source=PUBLISHED)
    s_keep: float = option(
        0.85, "share of the gammas, smallest first, that keep the full s (local)", FRACTION, source=PUBLISHED
    )
    s_auto: bool = option(False, "whether s is adapted after each epoch", source="off, as published")
    target_sparsity: float = option(
        0.7,
        "share of the gammas that --s auto brings below 0.01 of the largest",
        FRACTION,
        source="a common share",
    )

    distill: tuple[DistillationKind, ...] = option(
        ("classic2",),
        "distillation losses: classic1, classic2, sigmoid, feature or a sum such as sigmoid+feature",
        sum_of(parse_kinds),
        source=PUBLISHED,
        metavar="KINDS",
    )

    augment: Augment | None = option(
        None, "augmentation, see Augment; None: off", source="[net], last [yolo] jitter"
    )
    multi_scale: bool = option(
        False,
        "change the input size every 10 batches, from 1/1.4 to 1.4 times --img_size",
        action=argparse.BooleanOptionalAction,
        source="[yolo] random",
    )
    rectangular: bool = option(
        False,
        "batches of images of similar aspect, with less padding",
        action=argparse.BooleanOptionalAction,
        source="as in Darknet",
    )
    balanced: bool = option(
        False,
        "sample images of rare classes more often",
        action=argparse.BooleanOptionalAction,
        source="arXiv 1908.03195",
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "TrainingOptions":
        """Inverse of `to_mapping`.

        Raises:
            ToolkitError: the checkpoint was written by another version of this program.
        """
        names = {item.name for item in fields(cls)}
        if names != mapping.keys():
            differing = ", ".join(sorted(names ^ mapping.keys()))
            fact = f"its options are those of another version of this program ({differing})"
            raise ToolkitError("checkpoint", fact, "start a new run with --weights")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in mapping.items()
        }
        if values["augment"] is not None:
            values["augment"] = Augment(**values["augment"])
        return cls(**values)

    @property
    def losses(self) -> LossWeights:
        """The part that the loss needs."""
        names = {item.name for item in fields(LossWeights)}
        return LossWeights(**{name: getattr(self, name) for name in names})

    @property
    def sparsity_schedule(self) -> SparsitySchedule:
        """The part that the penalty's factors need."""
        return SparsitySchedule(self.s_schedule, self.s_at, self.s_decay, self.s_keep)
