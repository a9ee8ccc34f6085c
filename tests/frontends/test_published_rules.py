"""--classic against a plain re-statement of the published rules, on networks of all their kinds."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.frontends import published
from utils.darknet.edit import residual_blocks, without_blocks
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.frontends.darknet.subject import DarknetSubject, classic_candidates, classic_scores
from utils.pruning.policies import (
    GlobalThreshold,
    WeakestBlocks,
    normal_threshold,
    shortcut_threshold,
    slim_threshold,
)
from utils.pruning.scores import unit_scores

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/zoo"
NETS = ("yolov3-tiny", "yolov3-spp", "yolov4", "yolov4-tiny", "yolov3")
# of the shared ones: what the published programs can read and nothing that they compute wrongly
MORE = ("yolov2-tiny-voc", "yolov3-tiny_3l", "yolov3_5l", "yolov4-csp", "yolov4-tiny-3l", "yolov7-tiny")
PERCENTS = (0.0, 0.3, 0.6, 0.85, 0.97)


def cfg(name: str) -> Path:
    if name not in MORE:
        return ROOT / f"cfg/{name}.cfg"
    if not SHARED.is_dir():
        pytest.skip("needs the shared cfgs")
    return SHARED / f"{name}.cfg"


@cache
def network(name: str) -> DarknetSubject:
    """Uninitialised but for the gammas, which `drawn` fills: no rule reads anything else."""
    return DarknetSubject.of(Darknet(Network.from_cfg(cfg(name)), initialise=False))


def drawn(name: str, seed: int, step: float = 0.0) -> tuple[DarknetSubject, published.Gammas]:
    """Gammas whose size differs from layer to layer, so that thresholds empty some; rounded to `step`."""
    subject, generator = network(name), np.random.default_rng(seed)
    gammas = {}
    for index, layer in enumerate(subject.model.layers):
        norm = getattr(layer, "norm", None)
        if isinstance(norm, torch.nn.BatchNorm2d):
            values = generator.laplace(size=norm.num_features) * 10 ** generator.uniform(-1.5, 0.3)
            values = (np.round(values / step) * step if step else values).astype(np.float32)
            norm.weight.data = torch.from_numpy(values)
            gammas[index] = np.abs(values)
    return subject, gammas


def assert_masks(subject: DarknetSubject, policy: GlobalThreshold, expected: published.Masks) -> None:
    scores = classic_scores(subject)
    plan = policy(subject, scores)
    keep = subject.graph.legal(plan.keep, unit_scores(subject.graph, scores))
    for index, mask in expected.items():
        ours = keep[subject.graph.layers[f"layers.{index}.conv"].outputs]
        assert np.array_equal(ours, mask), f"section {index}: {ours.sum()} kept, {mask.sum()} published"


@pytest.mark.parametrize("name", NETS + MORE)
def test_candidates_are_the_published_ones(name):
    sections = published.sections_of(cfg(name))
    expected = {f"layers.{i}.conv" for i in published.candidates(sections)}
    assert classic_candidates(network(name).network) == expected


@pytest.mark.parametrize("step", [0.0, 0.1], ids=["distinct", "ties"])
@pytest.mark.parametrize("percent", PERCENTS)
@pytest.mark.parametrize("name", NETS + MORE)
def test_masks_are_the_published_ones(name, percent, step):
    sections = published.sections_of(cfg(name))
    for seed in range(2):
        subject, gammas = drawn(name, seed, step)
        assert_masks(subject, normal_threshold(percent), published.normal_masks(sections, gammas, percent))
        assert_masks(
            subject, shortcut_threshold(percent), published.shortcut_masks(sections, gammas, percent)
        )
        for layer_keep in (0.01, 0.2):
            expected = published.slim_masks(sections, gammas, percent, layer_keep)
            assert_masks(subject, slim_threshold(percent, layer_keep), expected)


def test_some_percents_empty_layers():
    """Otherwise the test above would not see what keeps them alive."""
    subject, gammas = drawn("yolov4", 0)
    plan = slim_threshold(0.97, 0.01)(subject, classic_scores(subject))
    assert len(plan.emptied) > 10
    pool = [gammas[i] for i in published.candidates(published.sections_of(cfg("yolov4")))]
    assert sum(bool((values <= plan.threshold).all()) for values in pool) == len(plan.emptied)


@pytest.mark.parametrize("count", [1, 8, 23])
@pytest.mark.parametrize("name", ["yolov3", "yolov4", "yolov4-csp"])
def test_blocks_and_references_are_the_published_ones(name, count):
    sections = published.sections_of(cfg(name))
    subject, gammas = drawn(name, 3)
    plan = WeakestBlocks(count)(subject, classic_scores(subject))
    expected = published.weakest_blocks(sections, gammas, count)
    assert [int(block.name.split(".")[1]) for block in plan.blocks] == expected
    left = published.shortened(sections, expected)
    chosen = [b for b in residual_blocks(subject.network) if b.shortcut in expected]
    network, _ = without_blocks(subject.network, chosen)
    ours = []
    for section in network.sections:
        text = section.options.get("layers", section.options.get("from", ""))
        ours.append((section.kind, [int(value) for value in text.split(",") if value]))
    assert ours == left


@pytest.mark.parametrize("name", ["yolov3-spp", "yolov4"])
def test_blocks_of_layer_channel_are_judged_by_what_channels_they_keep(name):
    sections = published.sections_of(cfg(name))
    subject, gammas = drawn(name, 5)
    scores = classic_scores(subject)
    plan = slim_threshold(0.8, 0.01)(subject, scores)
    masks = published.slim_masks(sections, gammas, 0.8, 0.01)
    narrowed = subject.narrowed(subject.graph.legal(plan.keep, unit_scores(subject.graph, scores)))
    blocks = WeakestBlocks(12)(narrowed, classic_scores(narrowed)).blocks
    kept = {i: values[masks[i]] for i, values in gammas.items()}
    expected = published.weakest_blocks(sections, kept, 12)
    assert [int(block.name.split(".")[1]) for block in blocks] == expected
    assert expected != published.weakest_blocks(sections, gammas, 12)
