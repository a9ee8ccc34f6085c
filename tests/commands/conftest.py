"""Folders to run commands in."""

from pathlib import Path

import pytest
import torch

from tests.commands.trials import Evaluations, make_project
from utils.commands.prune import job as pruning_job
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet


@pytest.fixture
def folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, gone to; gammas differ so that widths can be chosen."""
    monkeypatch.chdir(project)
    model = Darknet.from_cfg("small.cfg")
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator))
    save_weights(model, "small.weights")
    return project


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """A project's folder to work in; every evaluation is counted."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = Evaluations()
    monkeypatch.setattr(pruning_job, "evaluate_network", found)
    return found
