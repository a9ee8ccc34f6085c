"""The HTML page of a network that slim pruned."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from utils.frontends.module.slim import slim

ROOT = Path(__file__).parents[2]


def test_the_page_shows_layers_scores_costs_and_the_check(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 24, 3), nn.Flatten(), nn.Linear(24 * 16, 5)
    )
    result = slim(model.eval(), torch.zeros(1, 3, 8, 8), 0.5, "l2", align=4)
    result.page(tmp_path / "slim.html", title="<mine>")
    text = (tmp_path / "slim.html").read_text(encoding="utf-8")
    assert "&lt;mine&gt;" in text
    assert re.search(r"<small>0 Conv2d</small>.*?32 → </span>16", text, re.DOTALL)
    assert "score l2" in text
    assert f"{len(result.kept)} removable channels" in text
    assert "asked for 50% of the channels" in text
    assert "cfg" not in text.lower().replace("#cfg", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "slim.html"]


def test_layers_of_the_report_add_up_to_the_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    report = slim(model.eval(), torch.zeros(1, 3, 8, 8), 0.5, align=4).report
    norms = (2 * 16, 2 * 8)  # parameters of the batch norm, which has no line
    for place in (0, 1):
        assert (
            sum(layer.parameters[place] for layer in report.layers) + norms[place] == report.parameters[place]
        )
        assert sum(layer.macs[place] for layer in report.layers) == report.macs[place]


def test_without_a_template_engine_the_page_names_the_pip_line(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "import torch; from torch import nn; from slim import slim\n"
        "result = slim(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)), torch.zeros(1, 3, 8, 8))\n"
        "try:\n    result.page('page.html')\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install jinja2" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []
