"""Against what the published programs did to fixed weights: masks, filters, structure, folded numbers."""

import json
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch

from tests.frontends.golden import GOLDEN, NETS, structure
from tests.sampling import some
from utils.darknet.model import Darknet
from utils.frontends.darknet.subject import DarknetSubject, classic_scores
from utils.pruning.channels import encode_mask
from utils.pruning.costs import count_parameters
from utils.pruning.policies import GlobalThreshold, WeakestBlocks, normal_threshold, slim_threshold
from utils.pruning.surgery import prune


def _matchable(net: str, run: dict) -> bool:
    """Not: the fallback bug of shortcut_prune, more blocks than there are, percent 1.0."""
    fallback_bug = run["script"] == "shortcut_prune.py" and run["args"][-1] == "0.85" and net == "yolov3-hand"
    layers = run["script"].startswith("layer")
    too_many = layers and (net == "yolov3-tiny-1cls" or "30" in run["args"])
    return run["status"] == "ok" and not fallback_bug and not too_many


def _runs() -> list:
    if not GOLDEN.is_dir():
        return [pytest.param("", {}, marks=pytest.mark.skip(reason="needs the shared golden values"))]
    documents = {net: json.loads((GOLDEN / f"{net}.json").read_text()) for net in NETS}
    return [
        pytest.param(net, run, id=run["run"])
        for net, document in documents.items()
        for run in document["runs"]
        if _matchable(net, run)
    ]


@cache
def subject_of(net: str) -> DarknetSubject:
    """The fixed weights, drawn by the recipe that stands beside the golden values."""
    spec = spec_from_file_location("recipe", GOLDEN / "make_weights.py")
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    model = Darknet.from_cfg(GOLDEN / f"{net}.cfg").eval()
    with torch.no_grad():
        for index, parts in recipe.blobs(GOLDEN / f"{net}.cfg"):
            block = model.layers[index]
            places = {"weight": block.conv.weight, "bias": block.conv.bias}
            if block.norm is not None:
                norm = block.norm
                places |= {
                    "beta": norm.bias,
                    "gamma": norm.weight,
                    "mean": norm.running_mean,
                    "var": norm.running_var,
                }
            for name, values in parts:
                places[name].copy_(torch.from_numpy(values))
    return DarknetSubject.of(model)


def _policies(run: dict) -> list:
    given = {key: float(value) for key, value in zip(run["args"][::2], run["args"][1::2], strict=True)}
    blocks = [WeakestBlocks(int(given["--shortcuts"]))] if "--shortcuts" in given else []
    if "--global_percent" in given:
        return [slim_threshold(given["--global_percent"], given["--layer_keep"]), *blocks]
    if run["script"] == "shortcut_prune.py":
        return [GlobalThreshold(given["--percent"], merge="leader", strict=False)]
    return blocks or [normal_threshold(given["--percent"])]


@pytest.mark.parametrize(("net", "run"), some(_runs()))
def test_classic_run_is_reproduced(net, run):
    subject = subject_of(net)
    result = prune(subject, _policies(run), classic_scores, rescore=True)
    network, model = result.compact.network, result.compact.model
    blocks = [model.layers[i] for i, s in enumerate(network.sections) if s.kind == "convolutional"]
    assert [block.conv.out_channels for block in blocks] == run["filters"]
    assert structure(network) == run["structure"]
    assert count_parameters(model) == run["params_after"]
    if run.get("threshold") is not None:
        assert result.plans[0].threshold == run["threshold"]
        for index, mask in run["masks"].items():
            ours = result.keep[subject.graph.layers[f"layers.{index}.conv"].outputs]
            assert encode_mask(ours) == mask, f"section {index}"
    if "removed_layers" in run:
        gone = set(range(len(subject.network))) - _kept_sections(subject, result)
        assert sorted(gone) == run["removed_layers"]
    weights = [float(block.conv.weight.detach().double().abs().sum()) for block in blocks]
    np.testing.assert_allclose(weights, run["conv_weight_abs_sum"], rtol=1e-7)
    folded = [block.conv.bias if block.norm is None else block.norm.running_mean for block in blocks]
    sums = [float(values.detach().double().sum()) for values in folded]
    np.testing.assert_allclose(sums, run["running_mean_or_bias_sum"], rtol=2e-6, atol=2e-5)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(result.folded.model.double()(image), model.double()(image), strict=True)
    assert max(float((zeroed - compact).abs().max()) for zeroed, compact in pairs) <= 1e-10


def _kept_sections(subject, result) -> set[int]:
    gone = {b.name for plan in result.plans if hasattr(plan, "blocks") for b in plan.blocks}
    from utils.darknet.edit import residual_blocks

    removed = {
        i for b in residual_blocks(subject.network) if f"layers.{b.shortcut}" in gone for i in b.sections
    }
    return set(range(len(subject.network))) - removed


@pytest.mark.parametrize("run_name", ["slim_prune-0.8-0.01", "layer_prune-8"])
def test_outputs_of_the_published_stages_are_reproduced(shared, run_name):
    """Maps entering the heads, float64: gamma_masked, folded at full size, compact."""
    document = json.loads((shared / "golden/pruning/yolov3-hand.json").read_text())
    run = next(r for r in document["runs"] if r["run"].endswith(run_name))
    result = prune(subject_of("yolov3-hand"), _policies(run), classic_scores, rescore=True)
    image = np.random.default_rng(0).random((1, 3, 256, 256)).astype(np.float32)
    stages = {"gamma_masked": result.masked, "keep_size": result.folded, "compact": result.compact}
    del stages["keep_size" if run_name.startswith("layer") else "gamma_masked"]  # each takes seconds
    for stage, subject in stages.items():
        with torch.no_grad():
            heads = subject.model.double()(torch.from_numpy(image).double())
        for head, golden in zip(heads, run["outputs"][stage], strict=True):
            batch, anchors, height, width, values = head.shape
            values = head.permute(0, 1, 4, 2, 3).reshape(batch, anchors * values, height, width).numpy()
            assert list(values.shape) == golden["shape"]
            flat = values.ravel()
            at = flat[np.linspace(0, flat.size - 1, 12).astype(int)]
            np.testing.assert_allclose(at, golden["at_linspace12"], rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(np.abs(flat).sum(), golden["abs_sum"], rtol=1e-6)
