"""Networks that take several tensors, keyword arguments, lists and dicts."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.module.inputs import Inputs, load
from utils.frontends.module.slim import slim
from utils.frontends.module.subject import Plan, apply_plan


class TwoImages(nn.Module):
    """Takes two images, and by name a weight of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(1, 32, 3, padding=1)
        self.body, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor, depth: Tensor, *, weight: float = 1.0) -> Tensor:
        return self.head(self.body((self.left(image) + weight * self.right(depth)).relu()).relu())


class Words(nn.Module):
    """Takes whole numbers and a mask by name, and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(50, 32), nn.Linear(32, 64)
        self.outer = nn.Linear(64, 5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.inner(self.embedding(ids)).relu()
        x = x if mask is None else x * mask[..., None]
        return {"scores": self.outer(x.mean(1))}


class Batch(nn.Module):
    """Takes a list of maps and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 32, 3)
        self.head = nn.Linear(64, 3)

    def forward(self, maps: list[Tensor], more: dict[str, Tensor]) -> Tensor:
        found = [conv(each).relu().mean((2, 3)) for conv, each in zip((self.first, self.second), maps)]  # noqa: B905
        return self.head(torch.cat(found, 1)) + more["offset"]


IMAGE, DEPTH = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
IDS = torch.arange(12).view(1, 12)
CASES: dict[str, tuple[type[nn.Module], Any]] = {
    "a tuple": (TwoImages, (IMAGE, DEPTH)),
    "a dict": (TwoImages, {"image": IMAGE, "depth": DEPTH, "weight": 0.5}),
    "whole numbers": (Words, IDS),
    "a mask by name": (Words, {"ids": IDS, "mask": torch.ones(1, 12)}),
    "a list and a dict": (Batch, ([IMAGE, IMAGE], {"offset": torch.zeros(1, 3)})),
}


def example_for(case: str, batch: int) -> Inputs:
    return Inputs.of(CASES[case][1]).repeated(batch).random()


@pytest.mark.parametrize("case", CASES)
def test_a_network_with_such_inputs_is_pruned_and_narrowed_by_its_plan(case: str) -> None:
    network, example = CASES[case]
    torch.manual_seed(0)
    model = network().eval()
    result = slim(model, example, 0.5, "l1")
    assert result.report.parameters[1] < 0.65 * result.report.parameters[0]
    assert result.report.difference < 1e-12
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    narrow = apply_plan(network(), plan)
    load(narrow, result.model.state_dict())
    inputs = example_for(case, 3)
    found, again = inputs(result.model), inputs(narrow.eval())
    for one, other in zip(_tensors(found), _tensors(again), strict=True):
        assert len(one) == 3
        assert torch.equal(one, other)


def _tensors(found: Any) -> list[Tensor]:
    return list(found.values()) if isinstance(found, dict) else [found]


def test_a_plan_of_one_tensor_has_the_keys_of_older_versions() -> None:
    plain = slim(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)), IMAGE).plan.to_json()
    assert set(plain) == {"input_shape", "input_type", "kept", "values"}


@pytest.mark.parametrize(
    ("example", "fact"),
    [
        ((), "got nothing"),
        ("text", "expected one tensor"),
        ((1, 2), "got int, int"),
        (torch.tensor(1.0), "has no batch"),
        ((IMAGE, object()), "has a object"),
        ({"depth": DEPTH, "image": IMAGE, "weight": 1.0}, "weight is in values too"),
    ],
)
def test_inputs_that_are_none_are_refused(example: Any, fact: str) -> None:
    with pytest.raises(PruningError, match=fact):
        slim(TwoImages(), example, values={"weight": 1.0})


@pytest.mark.parametrize(
    "broken", [{"args": 1}, {"args": {"list": [{"tensor": {"shape": [1], "type": "save"}}]}, "kwargs": {}}]
)
def test_inputs_of_a_plan_that_are_none_are_refused(broken: dict[str, Any]) -> None:
    plain = slim(TwoImages(), (IMAGE, DEPTH)).plan.to_json()
    with pytest.raises(PruningError, match="not a valid plan"):
        Plan.from_json({**plain, "inputs": broken})
