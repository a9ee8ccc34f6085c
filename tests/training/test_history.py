"""Histories: what is counted, and pictures that show something."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.sampling import some
from utils.commands.train.board import Board
from utils.errors import ToolkitError
from utils.training.history import GAMMA_BINS, EpochRecord, History, gamma_statistics


def record(epoch: int, sparse: bool = True) -> EpochRecord:
    gammas = torch.rand(500, generator=torch.Generator().manual_seed(epoch)) * 0.9**epoch
    columns = {**gamma_statistics(gammas if sparse else torch.empty(0))}
    parts = dict.fromkeys(("loss", "box", "objectness", "classes"), 1 / epoch)
    return EpochRecord(
        epoch=epoch, **parts, distillation=0.0, farther=0.0, map50=epoch / 400, learning_rate=0.01,
        seconds=2.0, s=0.01 * sparse, free_share=0.001 * epoch, images_per_second=10.0, **columns,
    )  # fmt: skip


def test_every_gamma_is_counted_once_in_its_bin() -> None:
    values = torch.tensor([0.0, 1e-9, 0.99e-4, 1.01e-4, 0.5, 9.0, 12.0, 1e6])
    counts = gamma_statistics(values)["gamma_counts"]
    assert sum(counts) == len(values)
    assert len(counts) == len(GAMMA_BINS) - 1
    assert counts[0] == 4
    assert counts[-1] == 3
    middle = int(np.searchsorted(GAMMA_BINS, 0.5)) - 1
    assert GAMMA_BINS[middle] <= 0.5 < GAMMA_BINS[middle + 1]
    assert counts[middle] == 1


def test_small_is_told_absolute_and_by_the_largest() -> None:
    statistics = gamma_statistics(torch.tensor([0.02, 0.009, 4.0, 3.0]))
    assert statistics["gamma_small"] == 0.25
    assert statistics["gamma_relative_small"] == 0.5


def test_a_history_survives_a_checkpoint_unless_of_another_version() -> None:
    history = History((record(1), record(2)))
    assert History.from_list(history.to_list()) == history
    for change in ({"unknown": 1}, {}):
        old = {**history.to_list()[0], **change}
        if not change:
            del old["gamma_counts"]
        with pytest.raises(ToolkitError, match="another version"):
            History.from_list([old])


@pytest.mark.parametrize(("epochs", "sparse"), some([(1, True), (5, False), (300, True)], 3, 1))
def test_pictures_of_short_and_long_runs_are_drawn(tmp_path: Path, epochs: int, sparse: bool) -> None:
    history = History(tuple(record(epoch, sparse) for epoch in range(1, epochs + 1)))
    history.draw(tmp_path)
    for name, wanted in (("history.png", True), ("gammas.png", sparse)):
        assert (tmp_path / name).exists() == wanted
        if wanted:
            picture = cv2.imread(str(tmp_path / name))
            assert picture.shape[1] == 1300
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_the_board_continues_where_a_resumed_run_goes_on(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Board(tmp_path) as board:
        for epoch in (1, 2, 3):
            board.epoch(record(epoch), torch.rand(20))
        board.picture("boxes/0", torch.zeros(8, 8, 3, dtype=torch.uint8), 3)
    with Board(tmp_path, first_epoch=3) as board:
        board.epoch(replace(record(3), map50=0.5), torch.rand(20))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("accuracy/map50")] == [
        (1, 0.0025), (2, 0.005), (3, 0.5),
    ]  # fmt: skip
    assert "sparsity/gammas" in events.Tags()["histograms"]
    assert "speed/images_per_second" in events.Tags()["scalars"]
