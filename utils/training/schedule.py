"""The learning rate as a function of the step: nothing to store but the step.

Invariant: `factor` is in (0, 1] for every step, so no rate ever exceeds the one asked for.
"""

import math
from dataclasses import dataclass
from typing import Literal

ScheduleKind = Literal["cosine", "steps"]
# the shares of the training after which "steps" divides the rate by ten, as Darknet's stock cfgs do (.8, .9)
STEPS = (0.8, 0.9)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine or two steps down.

    Attributes:
        steps: optimizer steps of the whole training.
        warmup: steps of the warm-up, at most all.
        kind: "cosine" to `final`, or "steps": a tenth at 80 % and again at 90 %.
        final: factor that the cosine ends at.
    """

    steps: int
    warmup: int
    kind: ScheduleKind = "cosine"
    final: float = 0.01

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at `step` (0-based).

        >>> schedule = Schedule(steps=100, warmup=10, kind="steps")
        >>> [round(schedule.factor(step), 3) for step in (0, 4, 9, 79, 80, 90)]
        [0.1, 0.5, 1.0, 1.0, 0.1, 0.01]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        if self.kind == "steps":
            return 0.1 ** sum(step >= share * self.steps for share in STEPS)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
