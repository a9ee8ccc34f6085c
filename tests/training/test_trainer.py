"""One optimizer step: how often the penalty counts, what accumulation means, what stops a run."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.training.tiny import OPTIONS, SPEC, TinyDetector, ignore, make_batches, make_model
from utils.pruning.sparsity import GammaPenalty
from utils.training.distillation import Teacher
from utils.training.trainer import PARTS, NotFiniteError, Objective, Trainer


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
def test_the_penalty_counts_once_per_step_whatever_the_accumulation(accumulate: int) -> None:
    """With the loss's gradient clipped away, a step moves every gamma by exactly rate * s."""
    model = make_model()
    options = replace(OPTIONS, accumulate=accumulate, clip_norm=1e-300)  # the factor underflows to 0
    trainer = Trainer(model, (SPEC,), options, batches=4, penalty=GammaPenalty({"norm": model.norm}, s=0.125))
    head = model.head.weight.detach().clone()
    trainer.train_epoch(make_batches(4), ignore)
    steps = max(4 // accumulate, 1)
    expected = torch.full((4,), 1 - steps * trainer.rate * 0.125)
    assert torch.allclose(model.norm.weight, expected, atol=1e-6)
    assert torch.equal(model.norm.bias, torch.zeros(4))
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("clip_norm", [1e9, 1e-3])
def test_clipping_does_not_weaken_the_penalty(clip_norm: float) -> None:
    """The step with penalty differs from the one without by rate * s * sign(gamma), on gammas only."""
    moved = []
    for s in (0.0, 0.5):
        model = make_model()
        options = replace(OPTIONS, clip_norm=clip_norm)
        trainer = Trainer(model, (SPEC,), options, batches=1, penalty=GammaPenalty({"norm": model.norm}, s))
        trainer.train_epoch(make_batches(1), ignore)
        moved.append(model)
    difference = moved[0].norm.weight - moved[1].norm.weight
    assert torch.allclose(difference, torch.full((4,), trainer.rate * 0.5), atol=1e-6)
    assert torch.equal(moved[0].conv.weight, moved[1].conv.weight)


def test_accumulated_batches_step_with_their_mean_gradient() -> None:
    """Two batches at rate 2r in one step == the mean of the two single steps from the same start."""
    first, second = make_batches(2)
    singles = []
    for batch in (first, second):
        model = make_model()
        start = model.head.weight.detach().clone()
        trainer = Trainer(model, (SPEC,), OPTIONS, batches=1)
        trainer.train_epoch([batch], ignore)
        singles.append((model.head.weight.detach() - start) / trainer.rate)
    model = make_model()
    trainer = Trainer(model, (SPEC,), replace(OPTIONS, accumulate=2), batches=2)
    trainer.train_epoch([first, second], ignore)
    moved = (model.head.weight.detach() - start) / trainer.rate
    assert torch.allclose(moved, (singles[0] + singles[1]) / 2, atol=1e-5)


@pytest.mark.parametrize("accumulate, batches, steps", [(1, 3, 3), (2, 3, 2), (3, 3, 1), (5, 3, 1)])
def test_an_incomplete_group_still_makes_a_step(accumulate: int, batches: int, steps: int) -> None:
    trainer = Trainer(make_model(), (SPEC,), replace(OPTIONS, accumulate=accumulate), batches)
    trainer.train_epoch(make_batches(batches), ignore)
    assert trainer.step == steps
    assert trainer.schedule.steps == 2 * steps


def test_an_infinite_gradient_ends_the_epoch_before_its_step() -> None:
    batches = make_batches(2)
    batches[1].images[0, 0, 0, 0] = float("nan")
    trainer = Trainer(make_model(), (SPEC,), OPTIONS, batches=2)
    with pytest.raises(NotFiniteError, match="step 2"):
        trainer.train_epoch(batches, ignore)
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    assert trainer.step == 1


def test_observed_losses_are_running_means_and_add_up() -> None:
    seen = []
    trainer = Trainer(make_model(), (SPEC,), OPTIONS, batches=3)
    means = trainer.train_epoch(make_batches(3), lambda number, parts: seen.append((number, dict(parts))))
    assert trainer.done == 3
    trainer.end_epoch()
    assert trainer.done == 0
    assert [number for number, _ in seen] == [1, 2, 3]
    assert seen[-1][1] == means
    assert tuple(means) == PARTS
    weights = OPTIONS.losses
    parts = weights.box_weight * means["box"] + weights.objectness_weight * means["objectness"]
    assert means["loss"] == pytest.approx(parts + weights.classes_weight * means["classes"], rel=1e-5)


def test_a_teacher_adds_its_lesson_to_the_loss() -> None:
    torch.manual_seed(7)
    teacher = Teacher(TinyDetector(), (SPEC,))
    trainer = Trainer(
        make_model(), (SPEC,), OPTIONS, batches=1, objective=Objective((SPEC,), teacher=teacher)
    )
    means = trainer.train_epoch(make_batches(1), ignore)
    weights = OPTIONS.losses
    own = sum(getattr(weights, f"{part}_weight") * means[part] for part in ("box", "objectness", "classes"))
    assert means["distillation"] > 0
    assert means["loss"] == pytest.approx(own + means["distillation"], rel=1e-5)
    assert 0 <= means["farther"] <= 1


def test_gammas_are_those_of_the_network_that_is_saved() -> None:
    model = make_model()
    trainer = Trainer(
        model,
        (SPEC,),
        replace(OPTIONS, ema_epochs=2.0),
        1,
        penalty=GammaPenalty({"any name": model.norm}, s=0.1),
    )
    with torch.no_grad():
        trainer.evaluated.norm.weight.fill_(0.25)
    assert trainer.gammas().tolist() == [0.25] * 4


def test_a_restored_trainer_goes_on_exactly_as_the_first_one() -> None:
    options = replace(OPTIONS, optimizer="adamw", learning_rate=0.01, ema_epochs=2.0)
    whole = Trainer(make_model(), (SPEC,), options, batches=3)
    whole.train_epoch(make_batches(3), ignore)
    whole.end_epoch()
    state = whole.state_dict()
    state = copy.deepcopy(state)
    evaluated = {name: tensor.clone() for name, tensor in whole.evaluated.state_dict().items()}
    whole.train_epoch(make_batches(3), ignore)
    resumed = Trainer(make_model(), (SPEC,), options, batches=3)
    resumed.load_state_dict(state, evaluated)
    resumed.train_epoch(make_batches(3), ignore)
    assert resumed.step == whole.step
    for first, second in ((whole.model, resumed.model), (whole.evaluated, resumed.evaluated)):
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("sparsifier", ["l1", "proximal"])
def test_the_penalty_is_the_same_in_every_precision(precision: str, sparsifier: str) -> None:
    """With the loss's gradient clipped away it moves every gamma by rate * s: unscaled, once a step."""
    model = make_model()
    options = replace(OPTIONS, accumulate=2, clip_norm=1e-12, precision=precision)  # type: ignore[arg-type]
    penalty = GammaPenalty({"norm": model.norm}, s=0.125, sparsifier=sparsifier)  # type: ignore[arg-type]
    trainer = Trainer(model, (SPEC,), options, batches=4, penalty=penalty)
    assert trainer.scaler.is_enabled() == (precision == "fp16")
    trainer.train_epoch(make_batches(4), ignore)
    assert torch.allclose(model.norm.weight, torch.full((4,), 1 - 2 * trainer.rate * 0.125), atol=1e-6)


def test_a_gamma_that_nothing_holds_travels_its_layers_reach() -> None:
    """Under AdamW, whatever the rate: with s far above the loss's gradient, 0.5 of its size in the run."""
    for rate in (0.001, 0.1):
        model = make_model()
        with torch.no_grad():
            model.norm.weight.fill_(6.0)
        options = replace(
            OPTIONS, optimizer="adamw", learning_rate=rate, gamma_reach=0.5, epochs=4, momentum=0.9
        )
        penalty = GammaPenalty({"norm": model.norm}, s=1e3)
        trainer = Trainer(model, (SPEC,), options, batches=10, penalty=penalty)
        for _ in range(4):
            trainer.train_epoch(make_batches(10), ignore)
            trainer.end_epoch()
        assert model.norm.weight.tolist() == pytest.approx([3.0] * 4, abs=0.15)


def test_true_zeros_are_zeros_in_the_average_too() -> None:
    """The network that is pruned is the average, which by itself only comes near them."""
    model = make_model()
    options = replace(OPTIONS, ema_epochs=4.0, learning_rate=0.5)
    penalty = GammaPenalty({"norm": model.norm}, s=1e4, sparsifier="proximal")
    trainer = Trainer(model, (SPEC,), options, batches=4, penalty=penalty)
    trainer.train_epoch(make_batches(4), ignore)
    assert not model.norm.weight.any()
    assert trainer.gammas().tolist() == [0.0] * 4
