"""The learning rate as a function of the step: nothing to store but the step.

Invariant: `factor` is in 0..1 for every step, so no rate ever exceeds the one asked for.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

ScheduleKind = Literal["cosine", "steps", "sgdr", "constant"]
SCHEDULES: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
# of a step; the cycles are whole steps or nearly so
ROUNDING = 1e-6


@dataclass(frozen=True)
class Schedule:
    """A burn-in, then one of four courses.

    Attributes:
        steps: optimizer steps of the whole training.
        warmup: steps of the burn-in, at most all; the factor grows there as (done / warmup) ** `power`
            (get_current_rate, network.c, where the power is 4).
        kind: "cosine" to `final`; "steps": times `scales[k]` from the share `at[k]` of the training on;
            "sgdr": cosines that start anew (arXiv 1608.03983), the first `cycle` of the training long, each
            next one `growth` times its forerunner; "constant".
        final: factor that a cosine ends at.
    """

    steps: int
    warmup: int
    kind: ScheduleKind = "cosine"
    final: float = 0.01
    power: float = 1.0
    at: tuple[float, ...] = (0.8, 0.9)
    scales: tuple[float, ...] = (0.1, 0.1)
    cycle: float = 1.0
    growth: float = 2.0

    def __post_init__(self) -> None:
        if self.cycle <= 0 or self.growth < 1:
            raise ValueError(
                f"cycle={self.cycle}, growth={self.growth}: cycles must have a length and not shrink"
            )

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at `step` (0-based).

        >>> schedule = Schedule(steps=100, warmup=10, kind="steps")
        >>> [round(schedule.factor(step), 3) for step in (0, 4, 9, 79, 80, 90)]
        [0.1, 0.5, 1.0, 1.0, 0.1, 0.01]
        """
        if step < self.warmup:
            return float(((step + 1) / self.warmup) ** self.power)
        if self.kind == "constant":
            return 1.0
        if self.kind == "steps":
            reached = zip(self.at, self.scales, strict=True)
            return math.prod((scale for share, scale in reached if step >= share * self.steps), start=1.0)
        total = max(self.steps - self.warmup, 1)
        done = min(step - self.warmup, total)
        share = self._done_of_cycle(done, total) if self.kind == "sgdr" else done / total
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2

    def _done_of_cycle(self, done: int, total: int) -> float:
        start, length = 0.0, self.cycle * total
        while start + length <= done + ROUNDING and done < total:
            start, length = start + length, length * self.growth
        return min(max(done - start, 0.0) / length, 1.0)
