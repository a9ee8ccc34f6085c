"""The engine on cfgs: every feature cfg, every policy."""

import numpy as np
import pytest
import torch

from tests.frontends.feature_cfgs import CFGS, heads, image, randomised
from tests.sampling import some
from utils.darknet.edit import residual_blocks
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.weights import read_weights
from utils.errors import PruningError
from utils.frontends.darknet.subject import (
    DarknetSubject,
    classic_candidates,
    gamma_penalty,
    trace,
    usable_size,
)
from utils.pruning.channels import UnitMask
from utils.pruning.costs import count_parameters
from utils.pruning.policies import WeakestBlocks, normal_threshold, slim_threshold
from utils.pruning.subject import Subject
from utils.pruning.surgery import prune

POLICIES = {
    "normal": [normal_threshold(0.6)],
    "slim": [slim_threshold(0.7, 0.1)],
    "blocks": [WeakestBlocks(1)],
    "both": [slim_threshold(0.6, 0.01), WeakestBlocks(1)],
}


def _refusal(subject: DarknetSubject, policies: list) -> str | None:
    """What a policy must say on this network: not every one has blocks, or channels that no shortcut ties."""
    if isinstance(policies[-1], WeakestBlocks) and not subject.blocks:
        return "has 0 that can be removed"
    if policies[0] == normal_threshold(0.6) and not gamma_penalty(subject.model, 1, prune=0).norms:
        return "nothing to prune"
    return None


@pytest.mark.parametrize("seed", some(range(3), 2))
@pytest.mark.parametrize("policies", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("cfg", CFGS, ids=lambda path: path.stem)
def test_compact_equals_zeroed(cfg, policies, seed):
    model = randomised(cfg, seed)
    subject = DarknetSubject.of(model)
    refusal = _refusal(subject, policies)
    if refusal:
        with pytest.raises(PruningError, match=refusal):
            prune(subject, policies)
        return
    result = prune(subject, policies, folding=("interior", "borders", "off")[seed])
    expected = heads(result.folded.model, image(model))
    assert expected.abs().max() > 0
    difference = (heads(result.compact.model, image(model)) - expected).abs().max()
    assert difference <= 1e-12 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("cfg", CFGS, ids=lambda path: path.stem)
def test_saved_network_is_the_compact_one_and_retraces_to_its_mask(cfg, tmp_path):
    subject = DarknetSubject.of(randomised(cfg, 0).float())
    result = prune(subject, [slim_threshold(0.7, 0.1)])
    result.compact.save(tmp_path / "x.cfg", tmp_path / "x.weights")
    again = Darknet.from_cfg(tmp_path / "x.cfg")
    read_weights(tmp_path / "x.weights", again)
    again.double().eval()
    result.compact.model.double()
    assert torch.equal(heads(again, image(again)), heads(result.compact.model, image(again)))
    assert count_parameters(again) == count_parameters(result.compact.model)
    for name, layer in subject.graph.layers.items():
        assert len(trace(again.network).layers[name].outputs) == result.keep[layer.outputs].sum()


@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp", "yolov3-shapes"])
def test_yolov3_has_23_blocks_and_the_published_candidates(root, name):
    network = Network.from_cfg(root / f"cfg/{name}.cfg")
    assert len(residual_blocks(network)) == 23
    graph = trace(network)
    classic = classic_candidates(network)
    convolutions = [i for i, s in enumerate(network.sections) if s.kind == "convolutional"]
    coupled = [n for n in classic if graph.coupled[graph.layers[n].outputs].any()]
    assert len(convolutions) == (76 if name == "yolov3-spp" else 75)
    if name != "yolov3-spp":  # as published: 70 for slim, 42 for prune
        assert (len(classic), len(classic) - len(coupled)) == (70, 42)


def test_penalty_takes_exactly_the_candidates_of_pruning(root):
    model = Darknet.from_cfg(root / "cfg/yolov3-shapes.cfg")
    assert len(gamma_penalty(model, 0.1, 1, classic=True).norms) == 70
    assert len(gamma_penalty(model, 0.1, 0, classic=True).norms) == 42
    assert len(gamma_penalty(model, 0.1, 1).norms) == 72
    assert len(gamma_penalty(model, 0.1, 0).norms) == 44


def test_a_block_before_a_nonlinear_add_goes_and_its_constant_is_reported():
    text = """
[net]
width=16
height=16
channels=3
[convolutional]
batch_normalize=1
filters=4
activation=leaky
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky
[shortcut]
from=-2
activation=linear
[shortcut]
from=-3
activation=leaky
[convolutional]
filters=6
activation=linear
[yolo]
mask=0
anchors=4,4
classes=1
num=1
"""
    torch.manual_seed(0)
    model = Darknet(Network.from_text(text)).double().eval()
    subject = DarknetSubject.of(model)
    result = prune(subject, [WeakestBlocks(1)])
    assert result.unfolded == ("layers.2",)
    assert torch.allclose(heads(result.folded.model, image(model)), heads(result.compact.model, image(model)))


@pytest.mark.parametrize(
    ("after", "blocks"),
    [
        ("[activation]\nactivation=leaky\n[shortcut]\nfrom=0\n", ["layers.2"]),
        ("[dropout]\nprobability=0.5\n[shortcut]\nfrom=0\n", ["layers.2"]),
        ("[convolutional]\nbatch_normalize=1\nfilters=4\n[shortcut]\nfrom=0\n", ["layers.2", "layers.4"]),
    ],
)
def test_every_block_vanishes_with_its_weights(after, blocks):
    """0 + act(0 + 1) is no block of 0 although its branch reads nothing else: it would leave act(0)."""
    text = "[net]\nwidth=16\nheight=16\nchannels=3\n"
    text += 2 * "[convolutional]\nbatch_normalize=1\nfilters=4\nactivation=leaky\n" + "[shortcut]\nfrom=0\n"
    text += after + "[convolutional]\nfilters=6\nactivation=linear\n"
    text += "[yolo]\nmask=0\nanchors=4,4\nclasses=1\nnum=1\n"
    torch.manual_seed(0)
    subject = DarknetSubject.of(Darknet(Network.from_text(text)).double().eval())
    assert [block.name for block in subject.blocks] == blocks
    for block in subject.blocks:
        model = subject.copied().model
        with torch.no_grad():
            for name in block.layers:
                norm = model.get_submodule(subject.graph.layers[name].norm)
                norm.weight.zero_(), norm.bias.zero_()
                model.get_submodule(name.rpartition(".")[0]).activation = torch.nn.Identity()
        shorter = subject.with_model(model).shortened([block]).model
        assert torch.allclose(heads(model, image(model)), heads(shorter, image(model)), rtol=1e-12)


def test_a_network_that_takes_only_its_own_size_is_folded_at_it():
    text = "[net]\nwidth=16\nheight=16\nchannels=3\n"
    convolution = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
    text += convolution * 2 + "[avgpool]\n[convolutional]\nbatch_normalize=1\nfilters=8\nactivation=leaky\n"
    text += "[upsample]\nstride=4\n[route]\nlayers=-1,1\n[convolutional]\nfilters=6\nactivation=linear\n"
    text += "[yolo]\nmask=0\nanchors=4,4\nclasses=1\nnum=1\n"
    torch.manual_seed(0)
    model = Darknet(Network.from_text(text)).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
    result = prune(DarknetSubject.of(model), [slim_threshold(0.5, 0.01)])
    assert torch.allclose(heads(result.folded.model, image(model)), heads(result.compact.model, image(model)))


def test_an_inner_map_coarser_than_the_heads_cells_does_not_stop_pruning():
    """A side branch of 3x3 cells has a stride of 11 pixels, the head one of 8: 22 pixels fit no head."""
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n"
    text += "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=8\npad=1\nactivation=leaky\n"
    text += "[maxpool]\nsize=2\nstride=1\npadding=0\n[avgpool]\n[convolutional]\nfilters=8\n"
    text += "[scale_channels]\nfrom=0\n[convolutional]\nfilters=6\nactivation=linear\n"
    text += "[yolo]\nmask=0\nanchors=4,4\nclasses=1\nnum=1\n"
    network = Network.from_text(text)
    assert network.size_step == 11
    assert usable_size(network, 2 * network.size_step) == (32, 32)
    torch.manual_seed(0)
    model = Darknet(network).double().eval()
    torch.nn.init.normal_(model.layers[0].norm.weight)
    result = prune(DarknetSubject.of(model), [slim_threshold(0.5, 0.01)])
    assert torch.allclose(heads(result.folded.model, image(model)), heads(result.compact.model, image(model)))


def test_narrow_then_shorten_then_narrow_again_keeps_working(root):
    model = randomised(root / "cfg/yolov3-shapes.cfg", 0)
    subject: Subject = DarknetSubject.of(model)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for policies in ([slim_threshold(0.5, 0.01)], [WeakestBlocks(8)], [slim_threshold(0.3, 0.01)]):
        result = prune(subject, policies)
        difference = (heads(result.folded.model, x) - heads(result.compact.model, x)).abs().max()
        assert difference < 1e-12
        subject = result.compact
    assert len(subject.blocks) == 15


def test_everything_pinned_survives(root):
    network = Network.from_cfg(root / "cfg/yolov3-tiny.cfg")
    graph = trace(network)
    keep: UnitMask = graph.legal(np.zeros(graph.unit_count, bool), np.zeros(graph.unit_count))
    for head in network.heads:
        assert keep[graph.layers[f"layers.{head - 1}.conv"].outputs].all()
    assert keep[graph.layers["layers.0.conv"].inputs].all()
