"""Schedules of s, and the s that chooses itself."""

import math

import pytest
import torch
from torch import Tensor, nn

from utils.pruning.sparsity import POLARIZATION, AutoStrength, GammaPenalty, SparsitySchedule, parse_schedules

SIZES = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.7])


def make_penalty(gammas: Tensor, **options: object) -> tuple[GammaPenalty, nn.BatchNorm2d]:
    norm = nn.BatchNorm2d(len(gammas)).double()
    norm.weight.data.copy_(gammas)
    norm.weight.grad = torch.zeros_like(norm.weight)
    return GammaPenalty({"norm": norm}, s=0.25, **options), norm  # type: ignore[arg-type]


def test_global_decay_begins_for_all_at_its_time() -> None:
    schedule = SparsitySchedule(("global",), at=0.5, decay=0.01)
    assert schedule.factors(SIZES, 0.49).tolist() == [1.0] * 5
    assert schedule.factors(SIZES, 0.5).tolist() == pytest.approx([0.01] * 5)


def test_local_decay_spares_the_largest_only() -> None:
    schedule = SparsitySchedule(("local",), at=0.5, decay=0.1, keep=0.6)
    assert schedule.factors(SIZES, 0.2).tolist() == [1.0] * 5
    assert schedule.factors(SIZES, 0.9).tolist() == pytest.approx([1, 1, 0.1, 1, 0.1])


def test_decays_multiply() -> None:
    schedule = SparsitySchedule(parse_schedules("global+local"), at=0.5, decay=0.1, keep=0.8)
    assert schedule.factors(SIZES, 0.5).tolist() == pytest.approx([0.1, 0.1, 0.01, 0.1, 0.1])


@pytest.mark.parametrize("text", ["", "linear", "global,local", "global+"])
def test_an_unknown_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="constant, global, local"):
        parse_schedules(text)


def test_each_gamma_gets_its_own_share_of_s() -> None:
    """Local decay over two norms: the largest gamma of both together is the spared one."""
    schedule = SparsitySchedule(("local",), at=0.0, decay=0.0, keep=0.75)
    _, first = make_penalty(torch.tensor([0.4, -0.2]))
    second = nn.BatchNorm2d(2).double()
    second.weight.data.copy_(torch.tensor([0.9, 0.1]))
    second.weight.grad = torch.zeros_like(second.weight)
    both = GammaPenalty({"a": first, "b": second}, 0.25, schedule=schedule)
    both.start_epoch(0.0)
    both.add_to_gradients()
    assert first.weight.grad.tolist() == [0.25, -0.25]
    assert second.weight.grad.tolist() == [0.0, 0.25]


def test_proximal_stops_at_zero_and_moves_by_s_times_the_step() -> None:
    penalty, norm = make_penalty(torch.tensor([0.5, -0.5, 0.02, -0.02]), sparsifier="proximal")
    penalty.add_to_gradients()
    assert not norm.weight.grad.any()
    penalty.shrink(lambda gamma: 0.4)
    assert norm.weight.tolist() == pytest.approx([0.4, -0.4, 0.0, 0.0])
    assert norm.weight[2:].abs().max().item() == 0.0


def test_a_frozen_gamma_is_left_alone() -> None:
    for kind in ("l1", "proximal", "polarized"):
        penalty, norm = make_penalty(SIZES, sparsifier=kind)
        norm.weight.grad = None
        penalty.add_to_gradients()
        penalty.shrink(lambda gamma: 1.0)
        assert norm.weight.grad is None
        assert norm.weight.tolist() == pytest.approx(SIZES.tolist())


def test_polarization_has_the_gradient_of_its_formula() -> None:
    """s (t sum a - sum |a - mean a|), differentiated by autograd in float64."""
    gammas = torch.tensor([0.5, -0.1, 0.95, -0.3, 0.7], dtype=torch.float64)  # none is driven up
    penalty, norm = make_penalty(gammas, sparsifier="polarized")
    penalty.add_to_gradients()
    leaf = gammas.clone().requires_grad_()
    sizes = leaf.abs()
    (0.25 * (POLARIZATION * sizes.sum() - (sizes - sizes.mean()).abs().sum())).backward()
    assert torch.allclose(norm.weight.grad, leaf.grad, atol=1e-7)


def test_polarization_pulls_small_gammas_and_lets_large_ones_be() -> None:
    penalty, norm = make_penalty(torch.tensor([0.1, 0.1, 1.0, 1.0]), sparsifier="polarized")
    penalty.add_to_gradients()
    small, large = norm.weight.grad[0].item(), norm.weight.grad[2].item()
    assert small > 5 * large > 0


def test_polarization_drives_no_gamma_up() -> None:
    penalty, norm = make_penalty(torch.tensor([0.1, 0.1, 0.1, 0.1, 1.0]), sparsifier="polarized")
    penalty.add_to_gradients()
    assert norm.weight.grad[:4].min() > 0
    assert norm.weight.grad[4] == 0


@pytest.mark.parametrize("strength", [1e-4, 3e-4, 1e-3])
@pytest.mark.parametrize("target", [0.3, 0.7])
def test_auto_brings_the_share_under_the_threshold_in_time(strength: float, target: float) -> None:
    """Gammas that fall by s times some speed and are held by an importance of their own."""
    generator = torch.Generator().manual_seed(0)
    sizes = 1 + 3 * torch.rand(400, generator=generator)
    held = 0.002 * torch.rand(400, generator=generator)
    auto = AutoStrength(target, epochs=40, by=0.8)
    s = strength
    for epoch in range(40):
        s = auto.next(s, sizes, epoch / 40)
        sizes = (sizes - 20 * (s - held).clamp(min=0)).clamp(min=0)
    small = (sizes < 0.01 * sizes.max()).double().mean().item()
    assert small >= target - 0.02
    assert small < 0.99 or target > 0.9


def test_auto_presses_no_harder_once_its_time_is_over() -> None:
    auto, s, strengths = AutoStrength(0.7, epochs=10, by=0.5), 1e-3, []
    for epoch in range(10):  # these gammas do not yield
        s = auto.next(s, 1 + SIZES.abs(), epoch / 10)
        strengths.append(s)
    assert strengths[4] > strengths[0]
    assert strengths[5:] == [strengths[4]] * 5


def test_auto_takes_up_the_pressure_again_where_gammas_come_back() -> None:
    auto = AutoStrength(0.5, epochs=10, by=0.2)
    loud, quiet = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1e-4, 1e-4, 1.0])
    s = 1e-3
    for epoch in range(2):
        s = auto.next(s, loud, epoch / 10)
    reached = auto.next(s, quiet, 0.3)
    assert reached < s
    assert auto.next(reached, loud, 0.4) == pytest.approx(s)
    assert auto.next(s, loud, 0.5) == s


def test_auto_does_not_blame_s_for_a_falling_learning_rate() -> None:
    """The gammas fall on a straight line over the learning rate's sum: s is right as it is."""
    spent = lambda progress: (1 - math.cos(math.pi * max(progress, 0.0))) / 2  # noqa: E731
    auto = AutoStrength(0.5, epochs=20, by=0.8, spent=spent)
    for epoch in range(16):
        left = 1 - spent(epoch / 20) / spent(0.8) + 1e-2  # of the followed gamma; the largest stays at 1
        assert auto.next(1e-3, torch.tensor([left, left, 1.0]), epoch / 20) == pytest.approx(1e-3, rel=0.05)


def test_a_restored_penalty_goes_on_with_the_same_shares() -> None:
    schedule = SparsitySchedule(("local",), at=0.0, keep=0.5)
    first, norm = make_penalty(SIZES, schedule=schedule, auto=AutoStrength(0.5, 10))
    first.start_epoch(0.0)
    norm.weight.data.mul_(torch.tensor([3.0, 1.0, 0.1, 1.0, 1.0]))  # the order changes inside the epoch
    second, other = make_penalty(norm.weight.detach(), schedule=schedule, auto=AutoStrength(0.5, 10))
    second.load_state_dict(first.state_dict())
    for penalty in (first, second):
        penalty.add_to_gradients()
    assert torch.equal(norm.weight.grad, other.weight.grad)
    assert second.auto is not None
    assert first.auto is not None
    assert second.auto.last == first.auto.last
