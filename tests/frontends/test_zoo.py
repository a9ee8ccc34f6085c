"""A sample of benchmarks/zoo.py: each strategy on a third of the feature cfgs, and small stock cfgs.

`python benchmarks/zoo.py` runs every stock cfg under every strategy; tests/frontends/test_darknet.py prunes
every feature cfg.
"""

from pathlib import Path

import pytest

from benchmarks.zoo_cases import STRATEGIES, cfgs, run_case
from benchmarks.zoo_page import page
from tests.sampling import some

FEATURES = ("depthwise", "groups", "reorg", "route_groups", "sam", "scale_channels")
CHAIN = "slim, layers, slim, layers"


# Two of six for each strategy, other ones for each of three that follow each other.
SAMPLE = [
    (name, strategy)
    for number, strategy in enumerate(STRATEGIES)
    for place, name in enumerate(FEATURES)
    if (place + number) % 6 in (0, 3)
]


@pytest.mark.parametrize("name, strategy", SAMPLE)
def test_feature_is_pruned_by_every_strategy(root: Path, name: str, strategy: str) -> None:
    row = run_case(name, root / f"tests/cfgs/{name}.cfg", strategy)
    assert row.verdict == "ok" or row.verdict.startswith("n/a: "), row.verdict
    assert row.verdict == "ok" or "layer" in strategy, row.verdict


@pytest.mark.parametrize(
    "name, strategy",
    some(
        [
            ("real/MobileNetV2-YOLOv3-Nano-voc", CHAIN),
            ("real/MobileNetV2-YOLOv3-Nano-voc", "slim --fold borders"),
            ("real/yolo-fastest-1.1", "slim --keep-sections"),
            ("zoo/enet-coco", "slim --fold borders"),
        ]
    ),
)
def test_stock_cfg_is_pruned(shared: Path, name: str, strategy: str) -> None:
    row = run_case(name, cfgs()[name], strategy)
    assert row.verdict == "ok", row.verdict
    assert row.parameters_after < row.parameters
    assert row.macs_after < row.macs


def test_page_tells_differences_sizes_and_reasons() -> None:
    ok = {"verdict": "ok", "compact": "1.0e-15", "opencv": "it refuses", "onnx": "2e-6"}
    sizes = {"filters": 9, "filters_after": 4, "parameters": 1000, "parameters_after": 10}
    more = {"macs": 7, "macs_after": 3, "blocks": 2, "blocks_removed": 1}
    rows = [
        {"cfg": "zoo/x", "strategy": "slim", **ok, **sizes, **more},
        {"cfg": "zoo/x", "strategy": "layers", "verdict": "n/a: no blocks"},
        {"cfg": "zoo/y", "strategy": "layers", "verdict": "n/a: no blocks"},
    ]
    lines = page(rows).splitlines()
    assert "| zoo/x | 1.0e-15 | a |" in lines
    assert "| zoo/y |  | a |" in lines
    assert "| zoo/x | slim | 9 → 4 | 1,000 → 10 | 7 → 3 | 1 of 2 | 2e-6 | b |" in lines
    assert lines[-2:] == ["| a | no blocks |", "| b | it refuses |"]
