"""Files of version 0.1.0 are read for good: each loads, computes what it did then, and can be worked on.

`tests/written_by_0_1/write.py` tells how they were made, and has the networks. Outputs are compared within
what another processor may round differently.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import ladder
import latency
import slim_prune
import train
from models import convert
from slim import Plan, apply_plan, load, slim
from tests.written_by_0_1.write import (
    DISTILLATION,
    FILES,
    HERE,
    IMAGES,
    MACHINE,
    PRUNED,
    RUNGS,
    SHARE,
    heads,
    history,
    network,
)

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
TRAINED: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-3}  # steps of the optimizer carry rounding on
REPORT = Path(PRUNED[1]).with_suffix(".json")


@pytest.fixture
def outputs() -> dict[str, Any]:
    """What version 0.1.0 computed."""
    return torch.load(HERE / "outputs.pt", weights_only=True)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the present folder."""
    folder = tmp_path / "files"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(folder)
    return folder


def assert_same_course(found: Mapping[str, float], recorded: Mapping[str, float]) -> None:
    """Two lines of histories, the seconds left out; mAP may turn on a rounding."""
    assert recorded.keys() <= found.keys()
    names = recorded.keys() - {"seconds", "map50"}
    assert {name: found[name] for name in names} == pytest.approx(
        {name: recorded[name] for name in names}, rel=0.01, abs=1e-3, nan_ok=True
    )


def test_a_plan_narrows_a_fresh_network_for_its_state(outputs: dict[str, Any]) -> None:
    saved = torch.load(HERE / "slim.pt", weights_only=True)
    again = apply_plan(network(seed=9), Plan.from_json(saved["plan"]))
    load(again, saved["state"])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(IMAGES), outputs["slim"], **CLOSE)


def test_the_same_plan_is_found_today() -> None:
    saved = torch.load(HERE / "slim.pt", weights_only=True)
    result = slim(network(), IMAGES[:1], ratio=0.5, score="gamma", scheme="global", align=1)
    assert result.plan.to_json() == saved["plan"]
    assert result.model.state_dict().keys() == saved["state"].keys()


def test_a_checkpoint_is_loaded(outputs: dict[str, Any]) -> None:
    torch.testing.assert_close(heads(HERE / "tiny.cfg", HERE / "last.pt"), outputs["last"], **CLOSE)


def test_a_checkpoint_is_converted(files: Path, outputs: dict[str, Any]) -> None:
    torch.testing.assert_close(heads("tiny.cfg", convert("tiny.cfg", "last.pt")), outputs["last"], **CLOSE)


def test_pruned_weights_are_loaded(outputs: dict[str, Any]) -> None:
    torch.testing.assert_close(heads(HERE / PRUNED[0], HERE / PRUNED[1]), outputs["pruned"], **CLOSE)


def test_a_training_goes_on_where_it_was(files: Path, outputs: dict[str, Any]) -> None:
    train.main(["--resume", "last.pt", "--workers", "0", "--threads", "1", "--device", "cpu"])
    assert_same_course(history(files), outputs["resumed_history"])
    torch.testing.assert_close(heads("tiny.cfg", "last.pt"), outputs["resumed"], **TRAINED)


def test_distillation_of_features_reads_the_report(files: Path, outputs: dict[str, Any]) -> None:
    train.main([*DISTILLATION, "--output", "taught", *MACHINE])
    found = history(files / "taught")
    assert found["distillation"] > 0
    assert_same_course(found, outputs["taught_history"])
    torch.testing.assert_close(heads(PRUNED[0], "taught/last.pt"), outputs["taught"], **TRAINED)


def test_the_control_reads_the_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--scratch b takes the epochs that the multiply-adds in the report allow."""
    report = json.loads(REPORT.read_text())
    words = ["--cfg", PRUNED[0], "--weights", PRUNED[1], "--data", "shapes.data", "--batch-size", "4"]
    train.main([*words, "--scratch", "b", "--epochs", "3", "--output", "control", *MACHINE])
    epochs = round(3 * report["before"]["macs"] / report["after"]["macs"])
    assert epochs > 3
    assert history(files / "control")["epoch"] == epochs
    assert "unpruned" in capsys.readouterr().out


def test_pruning_the_checkpoint_gives_the_same_files(files: Path, outputs: dict[str, Any]) -> None:
    slim_prune.main([*FILES, *SHARE, "--no-report", "--verify", "quick", "--output", "again", *MACHINE])
    assert Path("again", PRUNED[0]).read_text() == Path(PRUNED[0]).read_text()
    one, two = (json.loads(path.read_text()) for path in (REPORT, "again" / REPORT))
    assert one.keys() <= two.keys()
    for key in ("sections", "image_size", "removed_blocks", "score"):
        assert two[key] == one[key]
    torch.testing.assert_close(heads("again/" + PRUNED[0], "again/" + PRUNED[1]), outputs["pruned"], **CLOSE)


def test_a_ladder_goes_on_with_its_rungs(files: Path) -> None:
    """A figure that no measurement would give tells that the line was read, not computed."""
    table = files / "last_ladder.csv"
    marked = (
        table.read_text()
        .replace(",0.0,0.0,", ",0.0,0.123,")
        .replace(",gamma,0.2,2,0.125,", ",gamma,0.2,2,0.987,")
    )
    assert marked.count("0.987") == 1
    table.write_text(marked)
    ladder.main([*FILES, *RUNGS, "--output", ".", *MACHINE])
    assert table.read_text() == marked


def test_a_latency_table_is_known_as_one_of_another_machine(files: Path) -> None:
    with pytest.raises(
        Exception,
        match=r"latency.json: was measured on another machine or runtime .*cpu: a processor of no machine, ",
    ):
        latency.main(["--cfg", "tiny.cfg", "--output", "latency.json", *MACHINE])
