import json
import sys

import pytest
import torch

import evaluate as script
from tests.detectors import mini_cfg
from utils.commands.evaluate.run import EvaluationOptions, evaluate, evaluate_network, open_split
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.data.listing import read_data_file
from utils.data.shapes import make_shapes
from utils.errors import ToolkitError


@pytest.fixture
def project(tmp_path):
    """A tiny network, its weights and a few shapes."""
    (tmp_path / "net.cfg").write_text(mini_cfg())
    torch.manual_seed(0)
    save_weights(Darknet.from_cfg(tmp_path / "net.cfg"), tmp_path / "net.weights")
    make_shapes(tmp_path, sizes={"train": 1, "valid": 5})
    return tmp_path


def options(project, *more: str) -> list[str]:
    files = {"--cfg": "net.cfg", "--weights": "net.weights", "--data": "shapes.data"}
    given = [word for name, file in files.items() for word in (name, str(project / file))]
    return [*given, "--workers", "0", *more]


@pytest.mark.parametrize("style", ["darknet", "voc", "coco"])
def test_the_json_file_says_what_was_measured_and_how(project, style, capsys):
    out = project / "out/figures.json"
    script.main(options(project, "--style", style, "--json", str(out), "--img-size", "96", "64"))
    figures = json.loads(out.read_text())
    assert figures["style"] == style
    assert figures["images"] == 5
    assert figures["images_per_second"] > 0
    assert set(figures["per_class"]) == {"circle", "square", "triangle", "star"}
    assert all(0 <= figures[name] <= 1 for name in ("map50", "map50_95", "precision", "recall"))
    assert figures["img_size"] == [96, 64]
    assert figures["seed"] == 0
    assert "--style" in figures["command"]
    assert "torch" in figures["versions"]
    told = capsys.readouterr().out
    assert "circle" in told
    assert told.strip().splitlines()[-1].startswith("next: python slim_prune.py --cfg")


def test_python_gets_the_figures_and_nothing_is_printed(project, capsys):
    files = {"cfg": project / "net.cfg", "weights": project / "net.weights", "data": project / "shapes.data"}
    result = evaluate(EvaluationOptions(**files, img_size=(96, 64), workers=0))
    assert result.figures.images == 5
    assert (result.image_size, result.letterbox) == ((96, 64), False)
    assert (result.files.cfg, result.files.is_demo) == (files["cfg"], False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"letterbox": True, "rect": True}, "--rect: not allowed with --letterbox"),
        ({"conf": 1.5}, "--conf: 1.5 is out of range"),
        ({"img_size": (0, 64)}, "--img_size: 0 is out of range"),
    ],
)
def test_options_that_cannot_be_are_refused_when_made(options, fact):
    with pytest.raises(ToolkitError, match=fact):
        EvaluationOptions(**options)


def test_what_was_left_out_is_counted_at_the_end(project, capsys):
    images, labels = project / "shapes/images", project / "shapes/labels"
    (images / "valid_0000.jpg").write_bytes(b"broken")
    (images / "valid_0001.jpg").unlink()
    (labels / "valid_0002.txt").unlink()
    (labels / "valid_0003.txt").write_text("0 .5 .5 .5 .5\nnonsense\n")
    script.main(options(project))
    told = capsys.readouterr().out
    for line in (
        "3 images, ",
        "1 images of the list do not exist",
        "1 images have no label file",
        "1 malformed label lines",
        "1 images could not be read",
    ):
        assert line in told


def test_network_and_data_of_different_class_counts_are_refused(project):
    (project / "net.cfg").write_text(mini_cfg(classes=3))
    save_weights(Darknet.from_cfg(project / "net.cfg"), project / "net.weights")
    with pytest.raises(ToolkitError, match=r"4 classes.*3"):
        script.main(options(project))


def test_a_missing_split_is_named(project):
    with pytest.raises(ToolkitError, match="test="):
        script.main(options(project, "--split", "test"))


def test_brackets_in_names_are_no_markup(project, capsys):
    (project / "shapes.names").write_text("[bold]a\n[/]\n[red]\n\\d\n")
    script.main(options(project))
    assert "[bold]a" in capsys.readouterr().out


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_in_the_mode_it_was_in(project, training):
    model = Darknet.from_cfg(project / "net.cfg").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = read_data_file(project / "shapes.data")
    evaluate_network(model, open_split(data, "valid", model, (64, 64)), data.names)
    assert model.training is training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "option, letterbox", [("", False), ("letter_box=1\n", True), ("letter_box=0\n", False)]
)
def test_the_cfg_decides_on_letterbox(project, option, letterbox):
    text = (project / "net.cfg").read_text().replace("channels=3\n", f"channels=3\n{option}")
    (project / "net.cfg").write_text(text)
    model = Darknet.from_cfg(project / "net.cfg")
    data = read_data_file(project / "shapes.data")
    assert open_split(data, "valid", model, (64, 64)).dataset.letterbox is letterbox


def test_a_checkpoint_alone_is_evaluated_and_named(project, capsys):
    save_weights(Darknet.from_cfg(project / "net.cfg"), project / "best.pt")
    files = ["--weights", str(project / "best.pt"), "--data", str(project / "shapes.data")]
    script.main([*files, "--workers", "0"])
    assert f"next: python slim_prune.py {' '.join(files)} --global" in capsys.readouterr().out
    (project / "shapes.data").write_text("classes=2\nvalid=shapes/valid.txt\nnames=shapes.names\n")
    (project / "shapes.names").write_text("one\ntwo\n")
    with pytest.raises(ToolkitError, match=r"2 classes, the network \(cfg in .*best\.pt\) has 4"):
        script.main([*files, "--workers", "0"])


def test_help_is_the_manual(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--help"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 0
    assert "detector map" in capsys.readouterr().out
