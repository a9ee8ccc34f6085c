"""Two processes, told of each other as torchrun does, take the steps of one that has both batches."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.test_trainer import OPTIONS, SPEC, make_batches, make_model
from utils.pruning.sparsity import GammaPenalty
from utils.training.processes import Processes, gradient_sync, joined, local_device
from utils.training.trainer import Trainer


def test_one_process_joins_nobody() -> None:
    model = nn.Linear(2, 2)
    with joined(torch.device("cpu")) as processes:
        assert processes == Processes(rank=0, count=1)
        assert processes.is_first
        assert processes.wrap(model) is model
        processes.barrier()
    with gradient_sync(model, wanted=False):
        pass


def test_each_process_takes_its_own_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cpu")) == torch.device("cpu")


PROGRAM = """
import torch
from torch import nn
from utils.pruning.sparsity import GammaPenalty
from utils.training.processes import joined
from utils.training.trainer import Trainer
from tests.training.test_trainer import OPTIONS, SPEC, TinyDetector, make_batches

torch.manual_seed(0)
model = TinyDetector()
device = torch.device("cpu")
with joined(device) as processes:
    penalty = GammaPenalty({"norm": model.norm}, s=0.25)
    trainer = Trainer(model, (SPEC,), OPTIONS, 1, penalty, processes=processes)
    start = model.norm.weight.detach().clone()
    trainer.train_epoch([make_batches(2)[processes.rank]], lambda *_: None)
    if processes.is_first:
        torch.save({"model": model.state_dict(), "rate": trainer.rate}, "result.pt")
"""


def test_two_processes_step_with_the_mean_gradient_and_one_penalty(tmp_path: Path, root: Path) -> None:
    """The same as accumulating both batches in one process at the same rate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=os.environ | shared | address | {"RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    found = torch.load(tmp_path / "result.pt", weights_only=True)

    model = make_model()
    penalty = GammaPenalty({"norm": model.norm}, s=0.25)
    trainer = Trainer(model, (SPEC,), replace(OPTIONS, accumulate=2), 2, penalty)
    assert found["rate"] == trainer.rate
    trainer.train_epoch(make_batches(2), lambda *_: None)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found["model"][name], parameter, atol=1e-5), name
