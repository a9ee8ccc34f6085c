"""Limits, Taylor scores, recalibration and rounds of `slim`."""

import pytest
import torch
from torch import nn

from examples.mobilenetv2 import MobileNetV2
from slim import apply_plan, load, slim
from tests.frontends.networks import network
from utils.errors import PruningError
from utils.pruning.costs import count_macs, count_parameters

EXAMPLE = torch.zeros(1, 3, 32, 32)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mobilenet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MobileNetV2(classes=10).eval()


@pytest.mark.parametrize(
    ("limits", "shares"),
    [
        ({"max_macs": "40%"}, (1.0, 0.4)),
        ({"max_params": "30%"}, (0.3, 1.0)),
        ({"max_macs": "50%", "max_params": "50%"}, (0.5, 0.5)),
    ],
    ids=["macs", "params", "both"],
)
def test_limits_are_met_and_used_up(limits, shares):
    model = mobilenet()
    result = slim(model, EXAMPLE, **limits, verify="quick")
    counts = [
        (count_parameters(each), count_macs(each, (32, 32))) for each in (model, result.model)
    ]  # of the object that comes back
    assert (result.report.parameters, result.report.macs) == tuple(zip(*counts, strict=True))
    left = [after / before for before, after in zip(*counts, strict=True)]
    assert all(part <= share for part, share in zip(left, shares, strict=True))
    assert max(part / share for part, share in zip(left, shares, strict=True) if share < 1) > 0.95


def test_a_budget_keeps_what_is_excluded_and_what_is_outside_of_the_scope():
    model = mobilenet()
    result = slim(model, EXAMPLE, max_macs="70%", scope="features", exclude=["features.0"], verify="quick")
    widths = {layer.name: (layer.before, layer.after) for layer in result.report.layers}
    assert widths["features.0.0"] == (32, 32)
    assert widths["classifier.1"] == (10, 10)


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"max_macs": "50%"}], ids=["ratio", "budget"])
def test_taylor_scores_follow_the_loss(options):
    """Only the first of two branches is in the loss, so the other one goes."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
            self.last = nn.Conv2d(32, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.cat([self.first(x), self.second(x)], 1))

    model = Branches().eval()
    with torch.no_grad():
        model.second.weight.mul_(100)  # which l1 would keep
        model.last.weight[:, 16:] *= 1e-4
    result = slim(
        model, EXAMPLE, score="taylor", loss=lambda m: m(IMAGES).square().mean(), scheme="global", align=1,
        layer_keep=0.0, **options,
    )  # fmt: skip
    kept = {layer.name: layer.after for layer in result.report.layers}
    assert kept["second"] < kept["first"]


def test_recalibration_takes_statistics_from_the_batches():
    batches = [IMAGES, IMAGES + 3]
    plain, fresh = (slim(network("nothing"), EXAMPLE, recalibrate=each) for each in ([], batches))
    norm = next(name for name, each in plain.model.named_modules() if isinstance(each, nn.BatchNorm2d))
    seen = []
    hook = fresh.model.get_submodule(norm).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        for batch in batches:
            fresh.model(batch)
    hook.remove()
    expected = torch.stack([each.mean((0, 2, 3)) for each in seen]).mean(0)
    torch.testing.assert_close(fresh.model.get_submodule(norm).running_mean, expected)
    assert not torch.allclose(plain.model.get_submodule(norm).running_mean, expected)


def test_rounds_prune_what_was_asked_for_with_one_plan():
    tuned = []

    def tune(model: nn.Module) -> None:
        tuned.append(count_parameters(model))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)

    model = mobilenet()
    once = slim(model, EXAMPLE, 0.5, align=1, verify="quick")
    result = slim(model, EXAMPLE, 0.5, align=1, iterative=3, tune=tune, verify="quick")
    assert len(tuned) == 3
    assert tuned == sorted(tuned, reverse=True)
    assert result.report.parameters == (count_parameters(model), tuned[-1])
    assert abs(tuned[-1] / once.report.parameters[1] - 1) < 0.05
    again = apply_plan(mobilenet(seed=9), result.plan)
    load(again, result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), result.model.eval()(IMAGES))
    assert {layer.name: layer.before for layer in result.report.layers}["features.18.0"] == 1280


def test_rounds_of_a_budget_end_within_it():
    result = slim(mobilenet(), EXAMPLE, max_macs="40%", iterative=2, tune=lambda _: None, verify="quick")
    before, after = result.report.macs
    assert 0.35 * before < after <= 0.4 * before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_macs": "x"}, "max_macs 'x': invalid value; give a number, or \"40%\""),
        ({"max_params": "100%"}, "max_params '100%': is not a limit; give a share below 100%"),
        ({"max_params": 1e9}, "already within the budget"),
        ({"max_macs": 10}, "the smallest network that the widths allow takes"),
        ({"score": "taylor"}, "score taylor: needs a loss; give loss"),
        ({"iterative": 2}, "iterative 2: trains nothing between its rounds; give tune"),
        ({"iterative": 2, "tune": print, "max_macs": 10.0}, "max_macs 10.0: is not a share"),
        ({"iterative": 0}, "iterative 0: invalid value"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(PruningError, match=said):
        slim(network("nothing"), EXAMPLE, **options)
