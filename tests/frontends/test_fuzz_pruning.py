"""Random legal networks, strung together from pieces of the feature cfgs, pruned at random in every way."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.acceptance.checks import randomise
from tests.sampling import some
from utils.darknet.cfg import RawSection, format_cfg, parse_cfg, read_text
from utils.darknet.edit import residual_blocks
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.errors import CfgError, PruningError
from utils.frontends.darknet.subject import DarknetSubject, trace, usable_size
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.policies import GlobalThreshold, WeakestBlocks
from utils.pruning.scores import gamma_scores, unit_scores
from utils.pruning.surgery import prune

CFGS = sorted((Path(__file__).parents[1] / "cfgs").glob("*.cfg"))
BODIES = [parse_cfg(read_text(path))[1:] for path in CFGS]
NET = RawSection("net", {"width": "32", "height": "32", "channels": "3"})
HEAD = [
    RawSection("convolutional", {"filters": "14", "size": "1", "activation": "linear"}),
    RawSection("yolo", {"mask": "0,1", "anchors": "4,5,8,7,12,14", "classes": "2", "num": "3"}),
]


@st.composite
def networks(draw) -> Network:
    """The beginning of one cfg, a piece of another and a third, then a head; only what is valid."""
    sections: list[RawSection] = []
    for number in range(draw(st.integers(1, 3))):
        body = draw(st.sampled_from(BODIES))
        first = draw(st.integers(0, len(body) - 1)) if number else 0
        sections += body[first : draw(st.integers(first + 1, len(body)))]
    while sections and sections[-1].kind.lower() in ("yolo", "gaussian_yolo", "region"):
        sections.pop()
    assume(len(sections) > 1)
    try:
        network = Network.from_text(format_cfg([NET, *sections, *HEAD]), "fuzz.cfg")
        network.shapes_at(32, 32)
    except CfgError:
        assume(False)
    return network


@st.composite
def policies(draw) -> GlobalThreshold:
    return GlobalThreshold(
        ratio=draw(st.floats(0, 0.95)),
        candidates=draw(st.sampled_from(["all", "all", "uncoupled"])),
        merge=draw(st.sampled_from(["union", "leader", "mean", "max", "norm"])),
        layer_keep=draw(st.sampled_from([0.0, 0.2])),
        strict=draw(st.booleans()),
    )


def random_subset(subject: DarknetSubject, seed: int) -> dict[str, np.ndarray]:
    """Scores of most layers, with ties; gammas where the seed is even."""
    rng = np.random.default_rng(seed)
    if seed % 2 == 0:
        return dict(gamma_scores(subject))
    return {
        name: rng.integers(0, 9, len(layer.outputs)).astype(np.float32)
        for name, layer in subject.graph.layers.items()
        if rng.random() < 0.8
    }


def check(network, policy, align, least, folding, blocks, seed) -> bool:
    """Prune and compare; False where the policy refuses this network."""
    model = randomise(Darknet(network), seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(seed))
    subject = DarknetSubject.of(model)
    scores = random_subset(subject, seed)
    plans = [policy, *([WeakestBlocks(min(blocks, len(subject.blocks)))] if blocks else [])]
    try:
        widths = {"align": align, "min_channels": least, "may_keep_all": True}
        result = prune(subject, plans, lambda _: scores, folding=folding, **widths)
    except PruningError as error:
        if any(text in str(error) for text in ("nothing to prune", "removes all", "asked for")):
            return False
        raise
    keep, graph = result.keep, subject.graph
    assert (graph.legal(keep, unit_scores(graph, scores), align, least) == keep).all(), "idempotent"
    assert keep[graph.pinned].all()
    image = torch.rand(1, 3, *usable_size(network, 32), generator=torch.Generator().manual_seed(seed))
    compact = outputs_in_float64(result.compact.model, image)
    assert relative_difference(compact, outputs_in_float64(result.folded.model, image)) <= 1e-12
    assert all(head.isfinite().all() for head in compact)
    gone = {name for block in result.removed_blocks for name in block.layers}
    left = [layer for name, layer in graph.layers.items() if name not in gone]
    for old, new in zip(left, trace(result.compact.network).layers.values(), strict=True):
        assert (len(new.inputs), len(new.outputs)) == (keep[old.inputs].sum(), keep[old.outputs].sum())
        assert len(new.outputs) >= min(least, len(old.outputs))
    return True


@settings(max_examples=80, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    network=networks(),
    policy=policies(),
    align=st.sampled_from([1, 1, 2, 8]),
    least=st.sampled_from([1, 1, 3]),
    folding=st.sampled_from(["off", "interior", "borders"]),
    blocks=st.integers(0, 2),
    seed=st.integers(0, 2**20),
)
def test_compact_equals_zeroed(network, policy, align, least, folding, blocks, seed):
    check(network, policy, align, least, folding, blocks, seed)


MERGES = ("union", "leader", "mean", "max", "norm")
WIDTHS = ((1, 1, "borders"), (2, 3, "interior"), (8, 1, "off"))


@pytest.mark.parametrize("path, merge", some(product(CFGS, MERGES)), ids=lambda one: Path(one).stem)
def test_feature_cfg_by_every_merge(path, merge):
    """Each cfg meets every merge and all widths, and each merge meets all widths."""
    network = Network.from_cfg(path)
    count = min(2, len(residual_blocks(network)))
    seed = (CFGS.index(path) + MERGES.index(merge)) % len(WIDTHS)
    align, least, folding = WIDTHS[seed]
    check(network, GlobalThreshold(0.6, merge=merge), align, least, folding, count, seed)
