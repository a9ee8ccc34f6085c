"""The choices of one training run, fixed before it starts and stored in its checkpoints.

Defaults were measured: AdamW with a short warm-up and a cosine reaches more in few epochs than SGD, both on
a small network from scratch and on fine-tuning (README, training).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from utils.training.losses import LossWeights
from utils.training.optimizer import OptimizerKind
from utils.training.schedule import ScheduleKind


@dataclass(frozen=True)
class TrainingOptions:
    """What `loop.train` needs to know.

    Attributes:
        epochs: passes over the training set.
        batch_size: images of one forward pass, for each process.
        accumulate: forward passes of one optimizer step.
        image_size: (height, width) of the network input.
        optimizer: "sgd" or "adamw".
        learning_rate: for 64 images a step, scaled to the real number (`optimizer.scaled_rate`).
        momentum: SGD's momentum, AdamW's beta1.
        decay: weight decay of convolution weights.
        schedule: "cosine" or "steps".
        warmup_epochs: length of the linear warm-up.
        ema_epochs: over how many epochs the weights are averaged that are evaluated and saved; 0 for none.
        clip_norm: largest norm of the loss's gradient, the penalty not counted.
        mixed_precision: bfloat16 or float16 autocast where the device gains from it.
        seed: of shuffling, augmentation and dropout, together with the epoch.
        losses: factors and thresholds of the loss.
    """

    epochs: int
    batch_size: int
    accumulate: int
    image_size: tuple[int, int]
    optimizer: OptimizerKind = "adamw"
    learning_rate: float = 0.001
    momentum: float = 0.9
    decay: float = 0.0005
    schedule: ScheduleKind = "cosine"
    warmup_epochs: float = 2.0
    ema_epochs: float = 1.0
    clip_norm: float = 10.0
    mixed_precision: bool = True
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "TrainingOptions":
        """Inverse of `to_mapping`."""
        plain = {key: value for key, value in mapping.items() if key not in ("losses", "image_size")}
        height, width = mapping["image_size"]
        return cls(**plain, image_size=(height, width), losses=LossWeights(**mapping["losses"]))
