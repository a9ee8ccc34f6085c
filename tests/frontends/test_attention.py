"""Attention of several kinds, and norms over channels: against the whole network with weights at 0."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim import Plan, apply_plan, load, slim
from utils.errors import PruningError

EXAMPLE = torch.zeros(1, 5, 8)
TOKENS = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    """Four heads; the scale is torch's own, an attribute, or follows from a shape."""

    def __init__(self, kind: str, norm: bool) -> None:
        super().__init__()
        self.kind, self.heads, self.width, self.scale = kind, 4, 8, 8**-0.5
        self.qkv, self.project = nn.Linear(32, 96), nn.Linear(32, 32)
        self.of_queries = nn.LayerNorm(8) if norm else nn.Identity()
        self.of_keys = nn.LayerNorm(8) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        count = self.width if self.kind == "count in an attribute" else -1
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, count).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.of_queries(q), self.of_keys(k)
        if self.kind == "scale in an attribute":
            found = (q * self.scale @ k.mT).softmax(-1) @ v
        elif self.kind == "scale of queries from the shape":
            found = (q / q.shape[-1] ** 0.5 @ k.mT).softmax(-1) @ v
        elif self.kind == "scale of products from the shape":
            found = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        else:
            found = F.scaled_dot_product_attention(q, k, v)
        return self.project(found.transpose(1, 2).flatten(2))


class Torchs(nn.Module):
    """nn.MultiheadAttention."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(32, 4, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=self.weights)[0]


class Block(nn.Module):
    """A transformer of one block."""

    def __init__(self, attention: nn.Module, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(8, 32), attention
        self.norms = nn.ModuleList([norm(32) for _ in range(3)])
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 7)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():  # initial weights make all attention the same
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norms[0](x))
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


KINDS = {
    "fused": lambda: Attention("fused", norm=False),
    "count in an attribute": lambda: Attention("count in an attribute", norm=False),
    "scale in an attribute": lambda: Attention("scale in an attribute", norm=False),
    "scale of queries from the shape": lambda: Attention("scale of queries from the shape", norm=False),
    "scale of products from the shape": lambda: Attention("scale of products from the shape", norm=False),
    "normed queries and keys": lambda: Attention("fused", norm=True),
    "torch's": lambda: Torchs(weights=False),
    "torch's with weights": lambda: Torchs(weights=True),
}


class OverKept(nn.Module):
    """A layer norm over some of the channels; the others become 0."""

    def __init__(self, norm: nn.LayerNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        own = (each[self.kept] for each in (self.norm.weight, self.norm.bias))
        found = F.layer_norm(x[..., self.kept], (len(self.kept),), *own)
        return torch.zeros_like(x).index_copy(-1, self.kept, found)


def without_rows(model: nn.Module, plan: Plan) -> nn.Module:
    """The full-size network with 0 for every weight of what was removed."""
    with torch.no_grad():
        for name, mask in plan.kept.items():
            module, gone = model.get_submodule(name), torch.from_numpy(~mask)
            attention = isinstance(module, nn.MultiheadAttention)
            weight = module.in_proj_weight if attention else module.weight
            bias = module.in_proj_bias if attention else module.bias
            weight[gone] = 0
            bias[gone] = 0
    return model


@pytest.mark.parametrize("norms", ["exact", "approximate"])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_become_narrow_and_compute_the_same(kind, norms):
    model = Block(KINDS[kind]()).eval()
    result = slim(model, EXAMPLE, 0.5, norms=norms, folding="off")
    whole = without_rows(Block(KINDS[kind]()).eval(), result.plan)
    kept = result.plan.kept.get("embed", np.ones(32, bool))
    assert kept.all() == (norms == "exact")
    whole.norms = nn.ModuleList(
        OverKept(norm, torch.from_numpy(np.flatnonzero(kept))) for norm in whole.norms
    )
    with torch.no_grad():
        torch.testing.assert_close(result.model(TOKENS), whole(TOKENS), rtol=1e-4, atol=1e-4)
    before, after = result.report.parameters
    free = kind not in ("normed queries and keys",) and not (kind.startswith("torch") and norms == "exact")
    assert after < (0.3 if norms == "approximate" else 0.55) * before or not free


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_network_narrowed_by_the_plan_takes_the_state(kind):
    result = slim(Block(KINDS[kind]()).eval(), EXAMPLE, 0.5, norms="approximate", verify="quick")
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = apply_plan(Block(KINDS[kind]()).eval(), plan)
    load(again, result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(TOKENS), result.model(TOKENS))


@pytest.mark.parametrize("norm", [nn.RMSNorm, lambda width: nn.LayerNorm(width, elementwise_affine=False)])
def test_other_norms_over_channels_may_be_approximate_too(norm):
    model = Block(KINDS["fused"](), norm).eval()
    assert (
        slim(model, EXAMPLE, 0.5).report.parameters[1]
        > 0.5 * slim(model, EXAMPLE, 0.5, norms="approximate").report.parameters[0]
    )
    assert slim(model, EXAMPLE, 0.5, norms="approximate").report.difference <= 1e-6


def test_the_cost_of_approximate_norms_is_reported():
    model = Block(KINDS["scale in an attribute"]()).eval()
    exact, approximate = (slim(model, EXAMPLE, 0.5, norms=norms) for norms in ("exact", "approximate"))
    assert not [text for text in exact.report.limits if "norms" in text]
    (text,) = (text for text in approximate.report.limits if "norms" in text)
    assert "3 norms" in text
    with pytest.raises(PruningError, match="norms 'none': invalid value; use exact, approximate"):
        slim(model, EXAMPLE, norms="none")
