"""Masked, folded, compact: what must be equal to what."""

import pytest
import torch
from torch import nn

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.errors import PruningError
from utils.pruning.policies import WeakestBlocks, normal_threshold, slim_threshold
from utils.pruning.scores import gamma_scores
from utils.pruning.surgery import prune

POLICIES = {
    "normal": [normal_threshold(0.5)],
    "slim": [slim_threshold(0.7, 0.05)],
    "blocks": [WeakestBlocks(1)],
    "both": [slim_threshold(0.6, 0.05), WeakestBlocks(2)],
}


def image(seed: int = 0, size: int = 12) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(first: nn.Module, second: nn.Module, crop: int = 0) -> float:
    with torch.no_grad():
        difference = (first(image()) - second(image())).abs()
    return float(difference[..., crop : 12 - crop, crop : 12 - crop].max())


@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("act", ["LeakyReLU", "Sigmoid", "SiLU"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folding", ["interior", "borders", "off"])
def test_compact_equals_zeroed(policies, act, seed, folding):
    subject = ToySubject.of(randomised(ToyNet(act=act), seed))
    result = prune(subject, policies, folding=folding)
    assert gap(result.folded.model, result.compact.model) < 1e-12
    assert gap(subject.model, result.compact.model) > 1e-6  # something was removed


def test_zeroed_is_what_multiplying_the_activations_gives():
    subject = ToySubject.of(randomised(ToyNet()))
    result = prune(subject, [slim_threshold(0.7, 0.05)], folding="off")
    for name, layer in subject.graph.layers.items():
        if name != "head":
            mask = torch.from_numpy(result.keep[layer.outputs]).double().view(1, -1, 1, 1)
            block = subject.model.get_submodule(name.removesuffix(".conv"))
            block.register_forward_hook(lambda module, inputs, out, mask=mask: out * mask)
    assert gap(subject.model, result.compact.model) < 1e-12


@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("pad", ["none", "circular"])
def test_folding_is_exact_without_zero_padding(policies, pad):
    # Removing a block changes nothing but what padding-free readers see, so every policy is exact here.
    result = prune(ToySubject.of(randomised(ToyNet(pad=pad))), policies)
    assert not result.unfolded
    with torch.no_grad():
        assert (result.masked.model(image()) - result.compact.model(image())).abs().max() < 1e-12


def test_folding_is_exact_off_the_border():
    result = prune(ToySubject.of(randomised(ToyNet(blocks=1, size=3))), [slim_threshold(0.5, 0.05)])
    assert gap(result.masked.model, result.compact.model, crop=2) < 1e-12
    assert gap(result.masked.model, result.compact.model) > 1e-6


@pytest.mark.parametrize("act", ["LeakyReLU", "Sigmoid", "SiLU"])
@pytest.mark.parametrize(
    "policies", [[slim_threshold(0.5, 0.05)], [slim_threshold(0.6, 0.05), WeakestBlocks(1)]]
)
def test_carriers_fold_exactly_at_borders_too(act, policies):
    model = randomised(ToyNet(width=16, size=3, act=act))
    model.depthwise.conv.padding = (
        0,
        0,
    )  # what a removed block adds to a channel that stays needs a dense layer
    subject = ToySubject.of(model)
    result = prune(subject, policies, folding="borders")
    interior = prune(subject, policies)
    assert gap(interior.masked.model, interior.compact.model) > 1e-3
    assert gap(interior.masked.model, result.masked.model) < 1e-12  # the same channels are dead
    assert gap(result.masked.model, result.compact.model) < 1e-11
    assert 0 < result.carried.sum() <= len(subject.graph.layers)


def test_folding_beats_dropping_the_constants():
    subject = ToySubject.of(randomised(ToyNet(size=3)))
    moved = prune(subject, [slim_threshold(0.5, 0.05)])
    dropped = prune(subject, [slim_threshold(0.5, 0.05)], folding="off")
    assert gap(moved.masked.model, moved.compact.model) < 0.5 * gap(moved.masked.model, dropped.compact.model)


def test_removing_a_block_whose_branch_is_zero_changes_nothing():
    model = randomised(ToyNet(blocks=3))
    with torch.no_grad():
        model.branches[1][1].norm.weight.zero_()
        model.branches[1][1].norm.bias.zero_()
    subject = ToySubject.of(model)
    result = prune(subject, [WeakestBlocks(1)])
    assert result.plans[0].blocks[0].name == "branches.1"
    assert gap(model, result.compact.model) < 1e-12


def test_a_block_whose_constant_is_lost_is_reported_and_equals_zeroed():
    from dataclasses import replace

    subject = ToySubject.of(randomised(ToyNet()))
    stuck = replace(subject, blocks=tuple(replace(block, travels=False) for block in subject.blocks))
    result = prune(stuck, [WeakestBlocks(2)])
    assert result.unfolded == ("branches.0", "branches.1")
    assert gap(result.folded.model, result.compact.model) < 1e-12


def test_a_layer_without_bias_or_norm_reports_its_constant():
    model = ToyNet()
    model.head = nn.Conv2d(16, 5, 1, bias=False)
    result = prune(ToySubject.of(randomised(model)), [slim_threshold(0.5, 0.05)])
    assert result.unfolded == ("head",)


def test_the_subject_given_is_not_changed():
    subject = ToySubject.of(randomised(ToyNet()))
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    prune(subject, [slim_threshold(0.7, 0.05), WeakestBlocks(1)])
    assert all(torch.equal(before[k], v) for k, v in subject.model.state_dict().items())


def test_policies_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="before the one for blocks"):
        prune(ToySubject.of(randomised(ToyNet())), [WeakestBlocks(1), slim_threshold(0.5, 0.1)])


def test_align_gives_multiples_unless_all_is_kept():
    subject = ToySubject.of(randomised(ToyNet(width=16)))
    compact = prune(subject, [slim_threshold(0.6, 0.05)], align=4).compact
    for layer in compact.graph.layers.values():
        assert len(layer.outputs) % 4 == 0 or layer.outputs is compact.graph.layers["head"].outputs


def test_widths_that_undo_a_plan_are_refused_unless_that_may_be():
    subject = ToySubject.of(randomised(ToyNet()))
    for option, widths in {"--min-channels 99": {"min_channels": 99}, "--align 64": {"align": 64}}.items():
        with pytest.raises(PruningError, match=rf"^{option}: all \d+ channels to remove are restored"):
            prune(subject, [slim_threshold(0.5, 0.05)], **widths)
        assert prune(subject, [slim_threshold(0.5, 0.05)], **widths, may_keep_all=True).keep.all()
        assert prune(subject, [normal_threshold(0.0)], **widths).keep.all()  # a share that removes nothing
        assert prune(subject, [slim_threshold(0.5, 0.05), WeakestBlocks(1)], **widths).removed_blocks


@pytest.mark.parametrize("padding", [0, 1])
def test_a_padded_layer_that_no_carrier_can_serve_is_named(padding):
    model = randomised(ToyNet(width=16, size=3))
    model.depthwise.conv.padding = (padding, padding)
    subject, policies = ToySubject.of(model), [slim_threshold(0.6, 0.05), WeakestBlocks(1)]
    result = prune(subject, policies, folding="borders")
    assert result.bordered == (("depthwise.conv",) if padding else ())
    assert (gap(result.masked.model, result.compact.model) > 1e-3) == bool(padding)
    assert prune(subject, policies).bordered == ()  # nothing was promised


def test_scores_have_all_threads_and_surgery_gives_them_back(monkeypatch):
    subject, seen = ToySubject.of(randomised(ToyNet())), {}

    def scores(subject):
        seen["scores"] = torch.get_num_threads()
        return gamma_scores(subject)

    def narrowed(self, keep):
        seen["surgery"] = torch.get_num_threads()
        raise RuntimeError

    monkeypatch.setattr(ToySubject, "narrowed", narrowed)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError):
            prune(subject, [slim_threshold(0.5, 0.05)], scores)
        assert seen == {"scores": 2, "surgery": 1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
