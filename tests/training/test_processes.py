"""Two processes, told of each other as torchrun does, take the steps of one that has both batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.sampling import some
from tests.training.tiny import SPEC, frozen_model, make_model, part_of, with_batches_of, write_cfg
from utils.data.shapes import make_shapes
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
import sys
import torch
from torch import nn
from utils.pruning.sparsity import GammaPenalty
from utils.training.processes import joined
from utils.training.trainer import Trainer
from tests.training.tiny import SPEC, frozen_model, part_of, with_batches_of

def main():
    device = torch.device("cpu")
    with joined(device) as processes:
        model = frozen_model()
        penalty = GammaPenalty({"norm": model.norm}, s=0.25, sparsifier=sys.argv[1])
        trainer = Trainer(model, (SPEC,), with_batches_of(4), 2, penalty, processes=processes)
        for step in range(2):
            trainer.train_epoch([part_of(step, processes.rank, 2)], lambda *_: None)
            trainer.end_epoch()
        assert processes.any(processes.rank == 1, device)
        assert not processes.any(False, device)
        assert processes.merged({processes.rank: "x"}) == {0: "x", 1: "x"}
        if processes.is_first:
            torch.save({"model": model.state_dict(), "rate": trainer.rate}, "result.pt")

main()
"""


def launch(root: Path, folder: Path, count: int, program: str, *words: str) -> list[str]:
    """Run a program in so many processes, told of each other as by torchrun; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=folder,
            env=os.environ | shared | address | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    shown = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    return shown


VALIDATION = """
import json
import sys
from pathlib import Path
import torch
from utils.darknet.model import Darknet
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import make_loader
from utils.training.processes import joined
from utils.training.loop import validate

def main():
    data = read_data_file(Path(sys.argv[2]))
    with joined(torch.device("cpu")) as processes:
        torch.manual_seed(0)
        model = Darknet.from_cfg(sys.argv[1])
        dataset = DetectionDataset.from_split(data, "valid", (64, 64))
        loader = make_loader(dataset, 2, distributed=processes.count > 1)
        found = validate(model, loader, model.head_specs, data.names, processes)
        print(json.dumps([found.map50, len(loader.dataset), found.images]))

main()
"""


def test_an_odd_number_of_images_is_validated_by_two_processes_as_by_one(tmp_path: Path, root: Path) -> None:
    """Each sees its share, none counts twice, and both know the whole result."""
    cfg = write_cfg(tmp_path / "tiny.cfg")
    data = make_shapes(tmp_path / "set", sizes={"train": 2, "valid": 3, "test": 2})
    alone = launch(root, tmp_path, 1, VALIDATION, str(cfg), str(data))
    together = launch(root, tmp_path, 2, VALIDATION, str(cfg), str(data))
    assert together == alone * 2
    assert json.loads(alone[0])[1:] == [3, 3]


@pytest.mark.parametrize("sparsifier", some(["proximal", "l1"]))
def test_two_processes_of_four_images_are_one_of_eight(tmp_path: Path, root: Path, sparsifier: str) -> None:
    """Two steps with batch norm frozen: the loss counts the objects of all, the penalty once."""
    launch(root, tmp_path, 2, PROGRAM, sparsifier)
    found = torch.load(tmp_path / "result.pt", weights_only=True)

    model = frozen_model()
    penalty = GammaPenalty({"norm": model.norm}, s=0.25, sparsifier=sparsifier)  # type: ignore[arg-type]
    trainer = Trainer(model, (SPEC,), with_batches_of(8), 2, penalty)
    assert found["rate"] == trainer.rate
    for step in range(2):
        trainer.train_epoch([part_of(step, 0, 1)], lambda *_: None)
    start = frozen_model().state_dict()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found["model"][name], parameter, atol=1e-5), name
        assert not torch.allclose(start[name], parameter, atol=1e-4), name


def test_sync_batch_norm_keeps_the_gammas_of_the_model() -> None:
    """The converted norms hold the same parameters, so that penalty and optimizer still reach them."""
    model = make_model()
    gamma = model.norm.weight
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted.norm.weight is gamma
    assert isinstance(converted.norm, nn.SyncBatchNorm)
