"""MODNet: halves of its norms, its backbone alone, its branches at inference."""

import pytest
import torch
from torch import nn

from examples.modnet import IBNorm, MODNet
from slim import SlimResult, slim

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TRAINING = {"inference": False}


@pytest.fixture(scope="module")
def model() -> MODNet:
    torch.manual_seed(0)
    return MODNet().eval()


def widths(result: SlimResult, part: str) -> set[tuple[int, int]]:
    """(before, after) of its layers."""
    return {(layer.before, layer.after) for layer in result.report.layers if layer.name.startswith(part)}


def is_whole(result: SlimResult, *parts: str) -> bool:
    """Whether their layers put out what they did."""
    return all(before == after for part in parts for before, after in widths(result, part))


def test_both_halves_of_a_norm_stay(model):
    result = slim(model, IMAGE, 0.6, score="random", values=TRAINING)
    norms = [module for module in result.model.modules() if isinstance(module, IBNorm)]
    assert len(norms) == 17
    for norm in norms:
        assert norm.batch.num_features == len(norm.batch.weight) >= 1
        assert norm.instance.num_features >= 1
    parents = [each for each in result.model.modules() if isinstance(each, nn.Sequential)]
    pairs = [(each[0], each[1]) for each in parents if len(each) > 1 and isinstance(each[1], IBNorm)]
    for conv, norm in pairs:
        assert conv.out_channels == norm.batch.num_features + norm.instance.num_features


def test_the_rest_follows_a_pruned_backbone(model):
    result = slim(model, IMAGE, 0.5, scope="backbone", values=TRAINING)
    assert (1280, 640) in widths(result, "backbone")
    assert is_whole(result, "low.conv", "high", "fusion")
    assert result.model.low.conv16[0].in_channels == 640
    assert result.model.high.enter4[0].in_channels == 16


def test_the_backbone_keeps_its_interface(model):
    result = slim(model, IMAGE, 0.5, scope="backbone", interface="keep", values=TRAINING)
    read = [result.model.backbone(IMAGE)[number].shape[1] for number in (0, 1, 4)]
    assert read == [16, 24, 1280]
    assert is_whole(result, "low", "high", "fusion")
    assert result.report.parameters[1] < 0.8 * result.report.parameters[0]


def test_a_network_pruned_with_all_heads_still_runs_at_inference(model):
    pruned = slim(model, IMAGE, 0.5, values=TRAINING).model
    with torch.no_grad():
        semantics, details, matte = pruned(IMAGE, inference=True)
        assert semantics is details is None
        assert torch.equal(matte, pruned(IMAGE, inference=False)[2])


def test_a_network_traced_at_inference_has_heads_that_give_nothing(model):
    result = slim(model, IMAGE, 0.5)
    assert result.report.difference <= 1e-12
    assert result.report.macs[1] < 0.5 * result.report.macs[0]
    assert [text.split()[0] for text in result.report.not_followed] == ["high.head.0.0", "high.head.1"]
    with torch.no_grad():
        assert result.model(IMAGE)[:2] == (None, None)
