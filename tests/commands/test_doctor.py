"""The doctor as its user meets it: what is printed, the exit code, the JSON file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import doctor as script
from utils.commands.doctor.checks import prunable_units
from utils.commands.doctor.run import DoctorOptions, check
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.data.shapes import make_shapes
from utils.errors import Finding
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.scores import gamma_scores, random_scores

CFG = """[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-2
activation=linear

[convolutional]
filters=18
size=1
activation=linear

[yolo]
mask=0,1
anchors=10,14, 23,27
classes=4
num=2
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.cfg").write_text(CFG)
    torch.manual_seed(0)
    save_weights(Darknet.from_cfg(tmp_path / "x.cfg"), tmp_path / "x.weights")
    save_weights(Darknet.from_cfg(tmp_path / "x.cfg"), tmp_path / "x.pt")
    make_shapes(tmp_path / "data", sizes={"train": 4, "valid": 4, "test": 4})
    return tmp_path


def run(*words: str) -> int:
    return script.main(list(words))


def test_python_gets_the_findings_and_nothing_is_printed(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("activation=linear\n\n[yolo]", "activaton=linear\n\n[yolo]"))
    result = check(DoctorOptions(cfg=Path("x.cfg"), data=Path("data/shapes.data")))
    typo = Finding("warning", "x.cfg:29", "activaton is ignored", "did you mean activation?")
    assert typo in result.findings
    assert result.exit_code == 1
    assert result.network.prunable.blocks == 1
    assert result.anchors.split == "train"
    assert capsys.readouterr() == ("", "")


def test_an_opencv_without_its_importer_is_a_warning(files, monkeypatch, capsys):
    monkeypatch.setattr("utils.runtimes.opencv.HAS_IMPORTER", False)
    assert run("--cfg", "x.cfg") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "has no Darknet importer" in out
    assert "pip install 'opencv-python-headless<5'" in out


def test_numbers_are_whole_on_80_columns_and_commands_are_those_installed(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["netslim"])
    run("--cfg", str(root / "cfg/yolov4.cfg"))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if " convolutional " in line]
    assert len(lines) == 110
    last = "160 convolutional 255 1x1/1 19x19x1024 19x19x255 261,375 94.3 M"
    assert " ".join(lines[-1].split()) == last
    assert "netslim slim-prune prunes them too" in out
    assert "netslim layer-prune can remove them" in out


def test_a_sound_project_names_the_next_command(files, capsys):
    assert run("--cfg", "x.cfg", "--data", "data/shapes.data", "--weights", "x.weights") < 2
    out = capsys.readouterr().out
    assert "0 errors" in out
    assert out.splitlines()[-1].startswith("next: python ")
    assert "train.py --cfg x.cfg --data data/shapes.data --weights x.weights" in out


def test_the_sections_are_a_table(files, capsys):
    run("--cfg", "x.cfg")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "convolutional", "8", "3x3/4", "64x64x3", "16x16x8", "232", "0.1", "M"] in rows
    assert ["2", "shortcut", "#1", "#0", "16x16x8"] in rows
    assert ["4", "yolo", "2", "anchors", "16x16x18", "16x16x18"] in rows


def test_the_anchors_that_are_suggested_can_be_pasted(files, capsys):
    run("--cfg", "x.cfg", "--data", "data/shapes.data", "--json", "out.json")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("anchors="))
    pasted = Network.from_text(CFG.replace("anchors=10,14, 23,27", line))
    fits = json.loads((files / "out.json").read_text())["anchors"]
    assert len(pasted[4].anchors) == 2
    assert fits["suggested"]["mean_iou"] >= fits["current"]["mean_iou"]


def test_what_can_be_pruned_adds_up(files):
    prunable = prunable_units(Network.from_text(CFG))
    assert (prunable.units, prunable.scored, prunable.coupled, prunable.pinned) == (29, 8, 8, 21)
    assert sum(prunable.reasons.values()) == prunable.pinned
    assert prunable.blocks == 1


def test_a_broken_cfg_still_gets_its_data_checked(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("leaky", "silu"))
    assert run("--cfg", "x.cfg", "--data", "data/shapes.data") == 2
    out = capsys.readouterr().out
    assert "x.cfg:12" in out
    assert "x.cfg:20" in out
    assert "Objects of each class" in out
    assert "next:" not in out


def test_a_cfg_whose_heads_do_not_fit_still_gets_its_table(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("filters=18", "filters=255"))
    assert run("--cfg", "x.cfg") == 2
    out = capsys.readouterr().out
    assert "255 -> 18" in out
    assert "write filters=18" in out


def test_other_classes_than_the_data_are_an_error_with_its_remedy(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("filters=18", "filters=14").replace("classes=4", "classes=2"))
    assert run("--cfg", "x.cfg", "--data", "data/shapes.data") == 2
    assert "python new_cfg.py --from x.cfg --classes 4" in capsys.readouterr().out


def test_an_option_that_looks_misspelt_is_a_warning(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("activation=linear\n\n[yolo]", "activaton=linear\n\n[yolo]"))
    assert run("--cfg", "x.cfg") == 1
    assert "did you mean activation?" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, code",
    [
        (["--data", "data/shapes.data"], 0),
        (["--cfg", "x.cfg"], 0),
        (["--weights", "x.weights"], 0),
        (["--weights", "x.pt"], 0),
        (["--weights", "no.weights"], 2),
        (["--weights", "no.pt"], 2),
        (["--data", "no.data"], 2),
        (["--cfg", "no.cfg"], 2),
    ],
    ids=str,
)
def test_any_one_file_can_be_checked_alone(files, words, code):
    assert run(*words) == code


def test_a_feature_that_opencv_misreads_is_a_warning(files, capsys):
    (files / "x.cfg").write_text(CFG.replace("stride=1\n", "stride=1\ndilation=2\n"))
    assert run("--cfg", "x.cfg") == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["OpenCV", "4", "reads", "wrongly", "#1:", "dilation", "is", "ignored"] in rows


def test_the_json_file_holds_it_all(files):
    words = ("--cfg", "x.cfg", "--data", "data/shapes.data", "--weights", "x.weights", "--json", "out.json")
    code = run(*words)
    result = json.loads((files / "out.json").read_text())
    assert result["exit_code"] == code
    assert [section["kind"] for section in result["network"]["sections"]] == [
        section.kind for section in Network.from_text(CFG).sections
    ]
    assert set(result["runtimes"]) >= {"Darknet", "OpenCV 4", "ONNX", "TensorRT"}
    assert {split: data["images"] for split, data in result["data"].items()} == {
        "train": 4,
        "valid": 4,
        "test": 4,
    }
    assert all(set(finding) >= {"severity", "place", "fact", "remedy"} for finding in result["findings"])


def test_lines_stay_within_the_terminal(files, capsys):
    run("--cfg", "x.cfg", "--data", "data/shapes.data", "--weights", "x.weights")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("next:")]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("scale_channels", 8 + 12 + 8),  # the gate has no batch norm and no vote; neither has its squeeze
        ("connected", 6 + 5 + 7 + 8),
        ("batchnorm", None),
    ],
)
def test_prunable_units_are_those_that_slim_can_take(root, name, scored):
    """Whatever is counted goes when all gammas but the floors' are below the threshold."""
    network = Network.from_cfg(root / f"tests/cfgs/{name}.cfg")
    prunable = prunable_units(network)
    subject = DarknetSubject.of(Darknet(network))
    gone = set()
    for seed in range(30):
        scores = {n: random_scores(seed)(subject)[n] for n in gamma_scores(subject)}
        gone |= set(np.flatnonzero(~slim_threshold(0.7, 0.0)(subject, scores).keep).tolist())
    assert prunable.scored == len(gone)
    assert scored in (None, prunable.scored)
