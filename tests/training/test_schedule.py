"""Bounds and the ends of the learning-rate schedule."""

import pytest

from utils.training.optimizer import Schedule


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


def test_sgdr_starts_anew_with_longer_and_longer_cycles() -> None:
    """Cycles of 10, 20, 40, ... steps behind a burn-in of 5: the rate is whole where each begins."""
    schedule = Schedule(steps=105, warmup=5, kind="sgdr", final=0.01, cycle=0.1, growth=2.0)
    for start, length in ((5, 10), (15, 20), (35, 40)):
        assert schedule.factor(start) == pytest.approx(1.0)
        assert schedule.factor(start + length // 2) == pytest.approx((1 + 0.01) / 2)
        assert schedule.factor(start + length - 1) < 0.05
