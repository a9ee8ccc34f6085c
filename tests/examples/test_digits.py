"""The course on digits, with a few images and an epoch of each training."""

import math
import sys

import pytest
import torch

from examples import digits
from examples.digits import Course, Outcome
from examples.digits_data import HEADS, Digits, load_digits
from examples.digits_training import EXAMPLE, accuracies, fit, fresh, hidden_layers, randomised
from slim import apply_plan, slim
from tests.sampling import some

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def few() -> Digits:
    return load_digits()[0][torch.arange(64)]


@pytest.fixture(autouse=True)
def _nothing_trained() -> None:
    digits._baseline.cache_clear()


@pytest.fixture
def outcomes(few: Digits, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    monkeypatch.setattr(digits, "load_digits", lambda: (few, few))
    return list(Course("ResNet", ratios=(0.7,), epochs=1, tune_epochs=1).run())


def test_the_images_are_split_and_the_answers_are_right():
    train, test = load_digits()
    assert (len(train), len(test)) == (600, 1197)
    assert train.images.shape == (600, 1, 32, 32)
    assert abs(train.images.mean()) < 1e-5
    digit, parity, third = test.answers
    assert [len(answer.unique()) for answer in test.answers] == list(HEADS.values())
    assert torch.equal(parity, digit % 2)
    parts = [set(digit[third == number].tolist()) for number in range(3)]
    assert parts == [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
    both = torch.cat([train.images, test.images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)  # no image is learnt and asked


def test_without_scikit_learn_the_pip_line_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit) as stop:
        digits.main([])
    assert stop.value.code == 2
    assert "pip install scikit-learn==1.9.1" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "count"), [("MobileNetV2", 2 * 16), ("ResNet", 3)])
def test_hidden_layers_are_read_inside_of_their_block_alone(name, count):
    """So whatever goes there, the widths of all else stay."""
    model = fresh(name, 0)
    hidden = hidden_layers(model)
    assert len(hidden) == count
    layers = slim(model, EXAMPLE, 0.9, scope=hidden, align=1).report.layers
    assert {layer.name for layer in layers if layer.after < layer.before} == set(hidden)


@pytest.mark.parametrize(("ratio", "weak"), [(0.5, False), (0.9, False), (0.7, True)])
def test_the_best_hidden_channels_stay_in_multiples_of_8(ratio, weak):
    """By the smaller gamma of both norms of a block, above one threshold, below the lowest maximum."""
    model, generator = fresh("MobileNetV2", 0).eval(), torch.Generator().manual_seed(1)
    hidden, scores = hidden_layers(model), {}
    for number, (expand, depthwise) in enumerate(zip(hidden[::2], hidden[1::2], strict=True)):
        branch = model.get_submodule(expand.rpartition(".")[0])
        gammas = [torch.rand(branch[place].num_features, generator=generator) for place in (1, 4)]
        if weak and number == 5:
            gammas[0] *= 0.05
        for place, gamma in zip((1, 4), gammas, strict=True):
            branch[place].weight.data.copy_(gamma)
        scores[expand, depthwise] = torch.minimum(*gammas)
    pool = torch.cat(list(scores.values())).sort().values
    threshold, lowest = pool[int(len(pool) * ratio)], min(score.max() for score in scores.values())
    assert (threshold >= lowest) == weak
    kept = slim(model, EXAMPLE, ratio, "gamma", hidden, scheme="guarded", layer_keep=0.0).plan.kept
    for names, score in scores.items():
        count = int((score >= lowest).sum() if weak else (score > threshold).sum())
        best = score.argsort(descending=True)[: -(-count // 8) * 8]
        for name in names:
            left = kept[name].nonzero()[0].tolist() if name in kept else range(len(score))
            assert set(left) == set(best.tolist()), name


def test_each_step_tells_what_it_did(outcomes):
    stages = ["teacher", "baseline", "sparse", "pruned", "fine-tuned", "distilled", "scratch-e", "scratch-b"]
    assert [found.stage for found in outcomes] == stages
    by = {found.stage: found for found in outcomes}
    assert by["teacher"].parameters != by["baseline"].parameters == by["sparse"].parameters
    small = outcomes[3:]
    assert {(found.parameters, found.macs) for found in small} == {(small[0].parameters, small[0].macs)}
    assert small[0].parameters < by["sparse"].parameters
    assert by["scratch-b"].epochs == round(by["baseline"].macs / small[0].macs) > by["scratch-e"].epochs == 1
    assert all(0 <= found.digit <= 1 for found in outcomes)


def test_a_course_repeats_itself(few, monkeypatch):
    monkeypatch.setattr(digits, "load_digits", lambda: (few, few))
    course = Course("ResNet", ratios=(0.7,), epochs=1, tune_epochs=1, scratch=("e",), teach=False)
    first = list(course.run())
    digits._baseline.cache_clear()
    assert list(course.run()) == first


def test_scratch_has_no_number_of_the_pruned_network(few):
    model = fresh("ResNet", 0)
    fit(model, few, 1, 0.1, seed=0)
    result = slim(model, EXAMPLE, 0.5, scope=hidden_layers(model))
    again = randomised(apply_plan(fresh("ResNet", 0), result.plan), seed=1)
    for old, new in zip(result.model.parameters(), again.parameters(), strict=True):
        assert old.shape == new.shape
        if old.ndim > 1:
            assert not torch.equal(old, new)
        if old.ndim == 4:  # as He et al. start a layer of this width
            expected = math.sqrt(2 * len(new[0]) / new.numel())
            assert float(new.detach().std()) == pytest.approx(expected, rel=0.25)


def test_the_penalty_pulls_the_hidden_gammas_down(few):
    plain, sparse = (fresh("ResNet", 0) for _ in range(2))
    fit(plain, few, 2, 0.1, seed=0)
    fit(sparse, few, 2, 0.1, seed=0, sr=0.5)
    for name, norm in plain.named_modules():
        if name.endswith(("norm1", "norm2")):
            alone, pulled = norm.weight.detach(), sparse.get_submodule(name).weight.detach()
            assert (pulled.abs().mean() < 0.9 * alone.abs().mean()) == name.endswith("norm1")


def test_a_student_learns_from_a_teacher_of_another_architecture(few):
    teacher = fresh("MobileNetV2", 0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    alone, taught = (fresh("ResNet", 0) for _ in range(2))
    fit(alone, few, 1, 0.1, seed=0)
    fit(taught, few, 1, 0.1, seed=0, teacher=teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert any(not torch.equal(*pair) for pair in zip(alone.parameters(), taught.parameters(), strict=True))


def test_accuracies_are_counted_for_each_head(few):
    class Oracle(torch.nn.Module):
        def forward(self, images):
            answers = [answer.clone() for answer in few.answers]
            answers[1][:16] = 1 - answers[1][:16]
            return [
                torch.nn.functional.one_hot(answer, size).float()
                for answer, size in zip(answers, HEADS.values(), strict=True)
            ]

    assert accuracies(Oracle(), few) == (1.0, 0.75, 1.0)


@pytest.mark.parametrize("columns", some(["80", "160"]))
def test_the_table_has_a_line_for_each_step_also_on_a_narrow_terminal(columns, few, monkeypatch, capsys):
    monkeypatch.setattr(digits, "load_digits", lambda: (few, few))
    monkeypatch.setenv("COLUMNS", columns)
    words = "--network ResNet --ratios 0.7 --epochs 1 --tune-epochs 1 --scratch e b --no-teacher"
    threads = torch.get_num_threads()
    try:
        digits.main(words.split())
    finally:
        torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert "ResNet, sr 0.01, seed 0" in shown
    lines = [line.split() for line in shown.splitlines()]
    stages = ["baseline", "sparse", "pruned", "fine-tuned", "scratch-e", "scratch-b"]
    assert [line[0] for line in lines if line and line[0] in stages] == stages
    assert next(line[-4:] for line in lines if line[:1] == ["baseline"]) == ["78,079", "12.21", "M", "1"]
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ("--ratios 1", "1 is not a number between 0 and 1"),
        ("--ratios half", "half is not a number between 0 and 1"),
        ("--epochs 0", "0 is not a whole number of at least 1"),
        ("--epochs 1.5", "1.5 is not a whole number of at least 1"),
        ("--sr=-1", "-1 is not a number of at least 0"),
        ("--sr nan", "nan is not a number of at least 0"),
        ("--scratch x", "invalid choice: 'x'"),
    ],
)
def test_options_are_checked(words, fact, capsys):
    with pytest.raises(SystemExit) as stop:
        digits.main(words.split())
    assert stop.value.code == 2
    assert fact in capsys.readouterr().err
