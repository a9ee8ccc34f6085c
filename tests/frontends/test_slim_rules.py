"""Operations and modules that slim does not know, described by rules of the user's."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.module.inputs import load
from utils.frontends.module.penalty import gamma_penalty
from utils.frontends.module.rules.values import elementwise, passed
from utils.frontends.module.run import Call
from utils.frontends.module.slim import slim
from utils.frontends.module.subject import Plan, apply_plan


@torch.library.custom_op("netslim_tests::soft", mutates_args=())
def soft(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


soft.register_autograd(
    lambda ctx, grad: grad * ctx.saved_tensors[0],  # not its derivative: no test trains it
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
SOFT = torch.ops.netslim_tests.soft


class OwnOperation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(SOFT(self.norm(self.first(x))))


class Outside(nn.Module):
    """Computes where torch cannot look, and multiplies each channel by a number of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.from_numpy(x.detach().numpy().clip(0)).to(x.dtype)
        return found * self.scale[:, None, None]


class WithOutside(OwnOperation):
    def __init__(self) -> None:
        super().__init__()
        self.outside = Outside(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.outside(self.norm(self.first(x))))


def outside(call: Call) -> Any:
    """Its channels are those of its input, and its parameter has one number for each."""
    (source,) = call.tensors
    call.run.tie(call.along(source.labels[1], 1), call.run.look(call.module.scale).labels[0])
    return source.labels


EXAMPLE = torch.rand(1, 3, 16, 16)


def test_an_own_operation_without_a_rule_keeps_its_channels() -> None:
    report = slim(OwnOperation().eval(), EXAMPLE).report
    assert report.layers[0].after == 32
    assert "soft" in report.not_followed[0]


@pytest.mark.parametrize("key", [SOFT, SOFT.default])
def test_an_own_operation_is_followed_by_its_rule(key: Any) -> None:
    result = slim(OwnOperation().eval(), EXAMPLE, rules={key: elementwise})
    assert result.model.first.out_channels == 16
    assert result.report.not_followed == ()


def test_a_module_is_one_operation_with_its_parameters() -> None:
    model = WithOutside().eval()
    rules = {Outside: outside}
    result = slim(model, EXAMPLE, rules=rules, folding="off")
    assert result.model.first.out_channels == len(result.model.outside.scale) == 16
    assert type(result.model) is WithOutside
    kept = result.plan.kept["first"]
    with torch.no_grad():
        model.last.weight[:, torch.from_numpy(~kept)] = 0
        images = torch.rand(3, 3, 20, 20)
        torch.testing.assert_close(result.model(images), model(images))
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = apply_plan(WithOutside(), plan, rules)
    load(again, result.model.state_dict())
    assert "forward" not in vars(again.outside)
    assert "forward" not in vars(result.model.outside)
    assert "forward" not in vars(model.outside)


def test_a_rule_that_forgets_parameters_costs_channels_and_no_correctness() -> None:
    result = slim(WithOutside().eval(), EXAMPLE, rules={Outside: passed})
    assert result.model.first.out_channels == 32
    assert result.report.difference < 1e-12


def test_the_penalty_takes_rules_too() -> None:
    penalty = gamma_penalty(OwnOperation(), EXAMPLE, 1e-3, rules={SOFT: elementwise})
    assert list(penalty.norms) == ["first"]


@pytest.mark.parametrize(
    ("rules", "fact"), [({"soft": elementwise}, "neither an operation"), ({Outside: 3}, "is not a rule")]
)
def test_what_is_not_a_rule_is_refused(rules: Any, fact: str) -> None:
    with pytest.raises(PruningError, match=fact):
        slim(OwnOperation().eval(), EXAMPLE, rules=rules)
