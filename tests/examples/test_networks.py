"""The examples' networks, pruned: equal to their zeroed selves, rebuilt from a plan, exported."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial

import onnxruntime
import pytest
import torch
from torch import nn

from examples.lenet import LeNet
from examples.mobilenetv2 import MobileNetV2, multiple_of
from examples.modnet import MODNet
from examples.preresnet import PreResNet
from examples.resnet import Bottleneck, ResNet, resnet18, resnet50, resnet_cifar
from examples.vgg import VGG16
from slim import Plan, SlimResult, apply_plan, gamma_penalty, load, slim
from tests.sampling import some
from utils.exporters.tracing import trace_onnx

# network, input shape, options of `slim`
NETWORKS = {
    "lenet": (LeNet, (1, 1, 32, 32), {}),
    "vgg16": (lambda: VGG16(10, small=True), (1, 3, 32, 32), {}),
    "mobilenetv2": (lambda: MobileNetV2(classes=10), (1, 3, 32, 32), {}),
    "mobilenetv2 small": (lambda: MobileNetV2(10, width=0.5, channels=1, small=True), (1, 1, 16, 16), {}),
    "resnet18": (lambda: resnet18(10), (1, 3, 32, 32), {}),
    "resnet bottleneck": (lambda: ResNet(Bottleneck, (2, 2), 10, width=16), (1, 3, 32, 32), {}),
    "resnet20": (resnet_cifar, (1, 3, 16, 16), {}),
    "preresnet": (lambda: PreResNet(20), (1, 3, 16, 16), {}),
    "preresnet selecting": (lambda: PreResNet(20, selecting=True), (1, 3, 16, 16), {"score": "gamma"}),
    "modnet": (MODNet, (1, 3, 64, 64), {"values": {"inference": False}}),
    "modnet backbone": (MODNet, (1, 3, 64, 64), {"values": {"inference": False}, "scope": "backbone"}),
    "modnet backbone keep": (
        MODNet,
        (1, 3, 64, 64),
        {"values": {"inference": False}, "scope": "backbone", "interface": "keep"},
    ),
}
# parameters as published or in the reference implementations
PUBLISHED = {
    "lenet": (LeNet, 61_706),
    "vgg16": (VGG16, 138_365_992),
    "mobilenetv2": (MobileNetV2, 3_504_872),
    "resnet18": (resnet18, 11_689_512),
    "resnet50": (resnet50, 25_557_032),
    "modnet": (MODNet, 6_487_075),
}


def built(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """The network with spread-out gammas and statistics, in evaluation mode, and an image; one's own copy."""
    build, shape, _ = NETWORKS[name]
    model, image = drawn(build, shape, seed)
    return deepcopy(model), image.clone()


@cache
def drawn(
    build: Callable[[], nn.Module], shape: tuple[int, ...], seed: int
) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), torch.rand(shape)


@cache
def pruned(name: str, ratio: float) -> tuple[SlimResult, torch.Tensor]:
    """For all tests that only look at it."""
    model, image = built(name)
    return slim(model, image, ratio, align=4, verify="quick", **NETWORKS[name][2]), image


def outputs(model: nn.Module, name: str, image: torch.Tensor) -> list[torch.Tensor]:
    """In evaluation mode, of every head."""
    fixed = NETWORKS[name][2].get("values", {}) if isinstance(model, MODNet) else {}
    with torch.no_grad():
        found = model.eval()(image, **fixed)
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_numbers_of_parameters(name):
    build, count = PUBLISHED[name]
    with torch.device("meta"):  # without the numbers
        assert sum(parameter.numel() for parameter in build().parameters()) == count


# Every network at half, the small ones at a low and a high ratio too, the large ones at one of them or none.
RATIOS = {
    **dict.fromkeys(NETWORKS, (0.2, 0.5, 0.8)),
    "vgg16": (0.5, 0.8),
    "resnet18": (0.2, 0.5),
    "modnet": (0.2, 0.5),
    "modnet backbone": (0.5, 0.8),
    "modnet backbone keep": (0.5,),
}


@pytest.mark.parametrize("name, ratio", some((name, ratio) for name in NETWORKS for ratio in RATIOS[name]))
def test_pruned_equals_zeroed_and_all_is_followed(name, ratio):
    report = pruned(name, ratio)[0].report
    assert report.difference <= 1e-12
    assert report.parameters[1] < report.parameters[0]
    assert report.not_followed == ()


def columns_left(full: nn.Module, small: nn.Module) -> dict[str, torch.Tensor]:
    """Layer name -> (in,) float64, 1 where its numbers show that it still reads this channel."""
    found = {}
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1:
            before = full.get_submodule(name).weight
            # One number of each kernel finds it; all of them are compared below.
            same = torch.isin(
                *(
                    weight.flatten(2)[..., 0] if weight.ndim > 2 else weight
                    for weight in (before, layer.weight)
                )
            )
            rows, columns = same.any(1), same.any(0)
            assert torch.equal(before[rows][:, columns], layer.weight)
            found[name] = columns.double()
    return found


@pytest.mark.parametrize("name", some(NETWORKS))
def test_without_folding_it_equals_the_network_with_removed_inputs_zeroed(name):
    """What is left is read off the random weights, so nothing that pruned judges it."""
    model, image = built(name)
    model, image = model.double(), image.double()
    for parameter in model.parameters():
        parameter.data *= 1 + 1e-6 * torch.rand_like(parameter)  # no two are equal
    result = slim(model, image, 0.5, align=4, folding="off", verify="quick", **NETWORKS[name][2])
    left = columns_left(model, result.model)
    assert any((mask == 0).any() for mask in left.values())
    for layer, mask in left.items():
        model.get_submodule(layer).register_forward_pre_hook(partial(zeroed_input, mask))
    found, expected = outputs(result.model, name, image), outputs(model, name, image)
    largest = max(float(each.abs().max()) for each in expected)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) <= 1e-12 * largest


def zeroed_input(mask: torch.Tensor, _: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (given[0] * mask.reshape(-1, *[1] * (given[0].ndim - 2)),)


@pytest.mark.parametrize("name", some(NETWORKS, start=1))
def test_a_fresh_network_narrowed_by_the_plan_takes_the_pruned_state(name):
    result, image = pruned(name, 0.5)
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    fresh = built(name, seed=9)[0]
    again = apply_plan(fresh, plan)
    assert type(again) is type(result.model) is type(fresh)
    load(again, result.model.state_dict())
    for one, other in zip(outputs(again, name, image), outputs(result.model, name, image), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", some(NETWORKS, start=1))
def test_the_pruned_network_in_onnxruntime_computes_what_it_does_in_torch(name, tmp_path):
    result, image = pruned(name, 0.5)
    trace_onnx(result.model, image, tmp_path / "pruned.onnx", 17)  # as it is called without `inference`
    session = onnxruntime.InferenceSession(tmp_path / "pruned.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": image.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found), outputs(result.model, name, image)[-1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("ratio", some([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 3))
def test_mobilenetv2_keeps_multiples_of_8_in_all_ratios(ratio):
    model, image = built("mobilenetv2")
    report = slim(model, image, ratio, align=8, verify="quick").report
    assert report.difference <= 1e-12
    assert {layer.after % 8 for layer in report.layers if layer.name != "classifier.1"} == {0}
    hidden = next(layer for layer in report.layers if layer.name == "features.14.branch.0")
    assert hidden.after == -(-round(hidden.before * (1 - ratio)) // 8) * 8


def test_widths_of_mobilenets_are_multiples_of_8():
    widths = (1.0, 0.75, 0.5, 0.35, 1.4)
    assert [multiple_of(24 * width) for width in widths] == [24, 24, 16, 8, 32]


def test_sparse_training_meets_the_norms_that_select():
    norms = gamma_penalty(PreResNet(20, selecting=True), torch.zeros(1, 3, 16, 16), s=1e-4).norms
    assert {name for name in norms if name.endswith("select")} == {"select"} | {
        f"blocks.{number}.select" for number in range(6)
    }


def test_sparse_training_meets_the_hidden_norms_of_inverted_residuals():
    penalty = gamma_penalty(MODNet(), torch.zeros(1, 3, 64, 64), 1e-4, "backbone", {"inference": False})
    hidden = {f"backbone.features.{number}.branch.{place}" for number in range(2, 18) for place in (0, 3)}
    assert hidden < set(penalty.norms)
    assert all(name.startswith("backbone.") for name in penalty.norms)
