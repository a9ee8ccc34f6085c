"""Bounds and the ends of the learning-rate schedule."""

import pytest

from utils.training.schedule import Schedule


@pytest.mark.parametrize("kind", ["cosine", "steps"])
@pytest.mark.parametrize("steps, warmup", [(1, 0), (1, 1), (7, 3), (500, 50), (3, 100)])
def test_the_rate_rises_to_the_one_asked_for_and_never_above(kind: str, steps: int, warmup: int) -> None:
    schedule = Schedule(steps, warmup, kind)
    factors = [schedule.factor(step) for step in range(steps + 3)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_cosine_starts_at_one_and_ends_at_final() -> None:
    schedule = Schedule(steps=100, warmup=10, final=0.05)
    assert schedule.factor(10) == pytest.approx(1)
    assert schedule.factor(55) == pytest.approx((1 + 0.05) / 2)
    assert schedule.factor(100) == pytest.approx(0.05)
