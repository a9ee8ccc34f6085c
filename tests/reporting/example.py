"""A page of a real pruned network, with class rows and pictures made by hand."""

import functools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.commands.prune.page import network_page
from utils.darknet.model import Darknet
from utils.frontends.darknet.subject import DarknetSubject, section_index
from utils.pruning.policies import WeakestBlocks, slim_threshold
from utils.pruning.report import SectionChange
from utils.pruning.scores import gamma_scores
from utils.pruning.subject import BlockPlan, Policy
from utils.pruning.surgery import PruningResult, prune
from utils.reporting.page import Box, Card, CheckRow, ClassRow, Page, Sample

HOSTILE = "<script>document.title='taken'</script>\"><img src=x onerror=alert(1)>"


def randomised(cfg: Path) -> Darknet:
    """With random batch norms, so that a threshold cuts through every layer."""
    torch.manual_seed(0)
    model = Darknet.from_cfg(cfg)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
    return model.eval()


def changes(
    subject: DarknetSubject, result: PruningResult[DarknetSubject]
) -> tuple[list[SectionChange], list[int]]:
    """What became of each layer, and the shortcuts of removed blocks."""
    blocks = [block for plan in result.plans if isinstance(plan, BlockPlan) for block in plan.blocks]
    gone = {name for block in blocks for name in block.layers}
    sections = [
        SectionChange(section_index(name), result.keep[layer.outputs] & (name not in gone), name in gone)
        for name, layer in subject.graph.layers.items()
    ]
    return sections, [section_index(block.name) for block in blocks]


def pruned_page(model: Darknet, policies: list[Policy]) -> Page:
    """What of a page comes from the networks."""
    subject = DarknetSubject.of(model)
    result = prune(subject, policies)
    page = network_page(
        subject,
        result.compact.model,
        gamma_scores(subject),
        *changes(subject, result),
        (model.network.height, model.network.width),
    )
    return replace(page, title="example", threshold=result.plans[0].threshold)


@functools.cache
def example(root: Path) -> Page:
    """Every part of a page, with hostile text wherever text comes from outside."""
    model = randomised(root / "cfg/yolov3-shapes.cfg")
    page = pruned_page(model, [slim_threshold(0.6, 0.01), WeakestBlocks(8)])
    return replace(
        page,
        title=f"yolov3-shapes {HOSTILE}",
        subtitle=f"pruned {HOSTILE}",
        facts=[("command", f"python slim_prune.py --cfg {HOSTILE}"), ("image size", "160×160")],
        cards=[
            Card("mAP@0.5", "78.5 %", "77.2 %", "−1.3 points", 0.98),
            Card("Parameters", "974 k", "219 k", "23 % left", 0.23),
            Card("Latency, median", "4.03 ms", "4.21 ms", "104 % left", 1.04),
        ],
        stages=[("before", 0.785), ("gamma_masked", 0.61), ("compact", 0.772), ("recalibrated", None)],
        classes=[ClassRow(HOSTILE, 12, 0.8, 0.75)]
        + [ClassRow(f"class {number}", number, 0.5, 0.5 + number / 100) for number in range(1, 20)],
        samples=[picture("one.jpg", 30), picture(f"{HOSTILE}.jpg", 2)],
        samples_note="The first two.",
        checks=[
            CheckRow("zeroed against compact", 3e-13, 1e-8, "float64"),
            CheckRow("too far", 1.0, 0.1),
            CheckRow("ONNX", None, 1e-4, f"not installed {HOSTILE}"),
        ],
        notes=[f"a note {HOSTILE}"],
        cfg_after=page.cfg_after.replace("[net]", f"[net]\nname={HOSTILE}", 1),
    )


def picture(name: str, count: int) -> Sample:
    """Noise with `count` boxes, many of them in one place."""
    generator = np.random.default_rng(count)
    _, data = cv2.imencode(".jpg", generator.integers(0, 255, (120, 200, 3), np.uint8))
    boxes = [
        Box(
            (0.3, 0.4, 0.4 + i / 100, 0.6),
            HOSTILE,
            0.9 - i / 100,
            ("lost", "gained", "kept")[i % 3],
            i % 2 > 0,
        )
        for i in range(count)
    ]
    return Sample(name, data.tobytes(), (120, 200), tuple(boxes))
