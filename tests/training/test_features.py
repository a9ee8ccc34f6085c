"""Feature distillation: what a pruned student shares with its teacher, found from the pruning report."""

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.sections import Convolutional
from utils.errors import ToolkitError
from utils.frontends.darknet.subject import DarknetSubject, section_index
from utils.pruning.channels import encode_mask
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import PruningResult, prune
from utils.training.features import FeatureMatch, neck_layers, pairs_from_report

CFGS = Path(__file__).parents[1] / "cfgs"


def pruned(name: str) -> tuple[Darknet, PruningResult[DarknetSubject], dict[str, object]]:
    """A teacher with random numbers, what pruning makes of it, and the report's part that matters."""
    torch.manual_seed(3)
    teacher = Darknet.from_cfg(CFGS / f"{name}.cfg").double().eval()
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 1)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    subject = DarknetSubject.of(teacher)
    result = prune(subject, [slim_threshold(0.5, 0.1)], folding="off")
    sections = [
        {"index": section_index(layer), "removed": False, "kept": encode_mask(result.keep[channels.outputs])}
        for layer, channels in subject.graph.layers.items()
    ]
    return teacher, result, {"sections": sections}


@pytest.mark.parametrize("name", ["residual", "spp", "route_groups", "depthwise"])
def test_a_student_that_computes_as_the_zeroed_teacher_pays_nothing(name: str) -> None:
    """The teacher with removed channels held at zero (folded, nothing moved) against the compact student."""
    teacher, result, report = pruned(name)
    student = result.compact.model.eval()
    pairs = pairs_from_report(report, student.network, teacher.network, "x.json")
    assert len(pairs) == len(neck_layers(student.network)) >= 1
    match = FeatureMatch(student, result.folded.model.eval(), pairs)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with match.capturing():
        student(images)
        result.folded.model(images)
    assert match.loss().item() < 1e-20


def test_the_loss_pulls_the_student_towards_the_teacher_and_hooks_go() -> None:
    teacher, result, report = pruned("residual")
    student = result.compact.model.train()
    match = FeatureMatch(student, teacher, pairs_from_report(report, student.network, teacher.network, "x"))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    images = torch.rand(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(8):
        with match.capturing():
            student(images)
            with torch.no_grad():
                teacher(images)
        loss = match.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_channels_count_alike_whatever_their_scale() -> None:
    """Scaling a channel in both networks leaves the loss as it is."""
    teacher, result, report = pruned("residual")
    student = result.compact.model.eval()
    pairs = pairs_from_report(report, student.network, teacher.network, "x")
    match = FeatureMatch(student, teacher, pairs)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    found = []
    for factor in (1.0, 7.0):
        hooks = [
            net.get_submodule(name).register_forward_hook(lambda _, __, out: out * factor)  # noqa: B023
            for net, name in ((student, pairs[0].student), (teacher, pairs[0].teacher))
        ]
        with match.capturing(), torch.no_grad():
            student(images)
            teacher(images)
        found.append(match.loss().item())
        for hook in hooks:
            hook.remove()
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("fault", ["other network", "removed", "no report"])
def test_a_report_of_other_networks_is_refused(fault: str) -> None:
    teacher, result, report = pruned("residual")
    sections = [dict(entry) for entry in report["sections"]]  # type: ignore[attr-defined]
    if fault == "removed":
        sections[1]["removed"] = True
    if fault == "other network":
        sections[0]["kept"] = encode_mask(np.ones(3, dtype=np.bool_))
    broken = {} if fault == "no report" else {"sections": sections}
    with pytest.raises(ToolkitError, match=r"x\.json: .*; give"):
        pairs_from_report(broken, result.compact.network, teacher.network, "x.json")


def test_the_neck_is_what_the_output_convolutions_read() -> None:
    network = Network.from_cfg(Path(__file__).parents[2] / "cfg" / "yolov3.cfg")
    assert neck_layers(network) == (80, 92, 104)
    assert all(isinstance(network[index], Convolutional) for index in neck_layers(network))
