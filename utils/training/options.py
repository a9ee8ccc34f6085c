"""All hyper-parameters of a training run, in one place, each with its unit and where its default comes from.

They are fixed before the run starts, printed with their origin, and stored in its checkpoints. "measured"
stands for the tables of docs/results/training.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from ..data.augment import Augment
from ..errors import ToolkitError
from ..pruning.penalty_schedule import ScheduleKind as SparsityScheduleKind
from ..pruning.penalty_schedule import SparsitySchedule
from ..pruning.sparsity import Sparsifier
from .distillation import DistillationKind
from .losses import LossKind, LossWeights
from .optimizer import OptimizerKind
from .precision import Precision
from .schedule import ScheduleKind

Value = TypeVar("Value")


def hyper(default: Value, unit: str, source: str) -> Value:
    """A field with its unit and the source of its default."""
    return field(default=default, metadata={"unit": unit, "source": source})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TrainingOptions:
    """What `loop.train` needs to know; each field's metadata has "unit" and "source"."""

    epochs: int = hyper(100, "passes over the training images", "common practice; [net] max_epochs")
    batch_size: int = hyper(8, "images of a forward pass and process", "[net] batch / subdivisions")
    accumulate: int = hyper(1, "forward passes of a step", "[net] subdivisions")
    image_size: tuple[int, int] = hyper((416, 416), "pixels, height and width", "[net] height, width")
    seed: int = hyper(0, "of every random choice", "any")

    optimizer: OptimizerKind = hyper("adamw", "what takes the steps", "measured; arXiv 1711.05101")
    learning_rate: float = hyper(0.001, "per step of 64 images", "[net] learning_rate")
    gamma_reach: float = hyper(
        3.0, "layer's mean gamma that a gamma can travel in the run (adamw)", "measured"
    )
    momentum: float = hyper(0.9, "share of the last step's", "[net] momentum")
    decay: float = hyper(0.0005, "of convolution weights, per step", "[net] decay")
    schedule: ScheduleKind = hyper("cosine", "of the learning rate", "[net] policy; arXiv 1608.03983")
    steps: tuple[float, ...] = hyper((0.8, 0.9), "shares of the training", "[net] steps / max_batches")
    scales: tuple[float, ...] = hyper((0.1, 0.1), "factors at `steps`", "[net] scales")
    cycle: float = hyper(
        1.0, "share of the training, of sgdr's first cycle", "[net] sgdr_cycle / max_batches"
    )
    cycle_growth: float = hyper(2.0, "factor from cycle to cycle", "[net] sgdr_mult")
    burn_in: float = hyper(2.0, "epochs, at most a third of the training", "measured; [net] burn_in")
    burn_in_power: float = hyper(
        1.0, "of the share of the burn-in that is done", "arXiv 1706.02677; [net] power"
    )
    ema_epochs: float = hyper(1.0, "epochs that the weights are averaged over, 0: none", "measured")
    clip_norm: float = hyper(10.0, "norm of the loss's gradient, penalty not counted", "arXiv 1211.5063")
    freeze: int = hyper(0, "first sections that do not learn", "transfer learning")
    precision: Precision = hyper("auto", "type of convolutions", "arXiv 1710.03740")
    compiled: bool = hyper(False, "torch.compile", "measured: no faster on CPUs")

    loss: LossKind = hyper("modern", "what is minimised", "measured")
    box_weight: float = hyper(1.0, "factor of the box loss", "measured")
    objectness_weight: float = hyper(1.0, "factor of the objectness loss", "measured")
    classes_weight: float = hyper(1.0, "factor of the class loss", "measured")
    box_kind: str = hyper("ciou", "overlap", "arXiv 1911.08287")
    iou_threshold: float = hyper(0.6, "width-height IoU that makes an anchor a positive", "measured")
    neighbours: float = hyper(0.3, "cells that a truth may lie outside a positive's cell", "measured")
    balance: float = hyper(0.5, "0: every cell counts alike, 1: every head does", "measured")
    iou_objectness: float = hyper(0.5, "share of the IoU in a positive's objectness target", "measured")
    label_smoothing: float = hyper(0.0, "share of a class target spread over all", "arXiv 1512.00567")

    s: float = hyper(0.0, "weight of the sparsity penalty, 0: none", "0.001 in the published programs")
    sparsifier: Sparsifier = hyper("l1", "how the penalty acts", "Liu et al. 2017")
    s_schedule: tuple[SparsityScheduleKind, ...] = hyper(
        ("constant",), "of s over epochs and gammas", "published programs"
    )
    s_at: float = hyper(
        0.5, "share of the epochs after which s decays, or auto is done", "published programs"
    )
    s_decay: float = hyper(0.01, "factor on s", "published programs")
    s_keep: float = hyper(0.85, "share of the smallest gammas that keep s (local)", "published programs")
    s_auto: bool = hyper(False, "whether s is chosen from epoch to epoch", "off, as published")
    target_sparsity: float = hyper(0.7, "share of gammas below 0.01 of the largest (auto)", "a common share")

    distill: tuple[DistillationKind, ...] = hyper(
        ("classic2",), "lessons of the teacher", "published programs"
    )

    augment: Augment | None = hyper(
        None, "see Augment; None: images as they are", "[net], last [yolo] jitter"
    )
    multi_scale: bool = hyper(False, "sizes from 1/1.4 to 1.4, a new one every 10 batches", "[yolo] random")
    rectangular: bool = hyper(False, "batches of one aspect", "off, as in Darknet")
    balanced: bool = hyper(False, "rare classes are drawn more often", "arXiv 1908.03195")

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "TrainingOptions":
        """Inverse of `to_mapping`.

        Raises:
            ToolkitError: it is of another version of this program.
        """
        names = {item.name for item in fields(cls)}
        if names != mapping.keys():
            differing = ", ".join(sorted(names ^ mapping.keys()))
            fact = f"its options are of another version of this program ({differing})"
            raise ToolkitError("checkpoint", fact, "start anew with --weights")
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
