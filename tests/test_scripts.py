"""The scripts as a user runs them: a process each, four images, a network of 20 sections."""

import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.project import CFG, DATA, FILES, Fail
from tests.running import run, run_forked
from utils.cli import COMMANDS
from utils.darknet.checkpoint import load_weights, save_weights
from utils.darknet.model import Darknet
from utils.pruning.costs import count_macs, count_parameters

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in ("models", "slim"))
OWN_OPTIONS = {"doctor", "new_cfg", "benchmark"}  # compute nothing, or take several networks at once


def succeed(folder: Path, script: str, *words: str) -> str:
    """What the script prints; it must end well and name the next command last."""
    done = run_forked(folder, script, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("next: python ")
    return done.stdout


def manual_of(command: str) -> str:
    """The docstring of the command's module; of several in one module, the constant named like it."""
    module, function = COMMANDS[command].target.split(":")
    found = importlib.import_module(f"utils.{module}")
    return (found.__doc__ if function == "main" else getattr(found, function.upper())) or ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_scripts_manual(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(script)
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"python {script}.py" in (module.__doc__ or "")
    assert manual_of(script.replace("_", "-")).strip() in text
    if script not in OWN_OPTIONS:
        for option in ("--cfg", "--weights", "--seed", "--device", "--threads"):
            assert option in text


def test_evaluate_writes_figures_with_their_origin(project: Path) -> None:
    text = succeed(project, "evaluate.py", *FILES, *DATA, "--json", "out/result.json")
    result = json.loads((project / "out/result.json").read_text())
    assert {"circle", "square", "triangle", "star"} == result["per_class"].keys()
    assert all(name in text for name in result["per_class"])
    assert result["images"] == 4
    assert result["style"] == "darknet"
    assert 0 <= result["map50"] <= 1
    assert result["command"].startswith("python evaluate.py --cfg small.cfg")
    assert result["seed"] == 0


def test_export_lies_beside_the_weights_and_names_the_classes(project: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    text = succeed(
        project, "export.py", *FILES, *DATA, "--format", "onnx", "--img_size", "64", "96", "--dynamic"
    )
    assert "batch 1, 64x96" in text
    assert "batch 3, 48x112" in text
    session = onnxruntime.InferenceSession(str(project / "small.onnx"))
    assert [output.name for output in session.get_outputs()] == ["boxes", "scores"]
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["names"]) == ["circle", "square", "triangle", "star"]
    assert json.loads(stored["strides"]) == [16, 8]
    assert json.loads(stored["anchors"])[0] == [[30.0, 30.0], [40.0, 40.0]]


def test_an_int8_export_is_measured_and_says_what_to_type_next(project: Path) -> None:
    text = succeed(project, "export.py", *FILES, *DATA, "--precision", "int8", "--int8-skip", "0,13")
    assert "mAP" in text
    assert "small_int8.onnx" in text
    onnx = pytest.importorskip("onnx")
    convolutions = [
        node for node in onnx.load(project / "small_int8.onnx").graph.node if node.op_type == "Conv"
    ]
    in_float = {node.name.split("/")[2] for node in convolutions if "dequantised" not in node.input[1]}
    assert in_float == {"layers.0", "layers.13"}
    assert "next: python " in text
    assert "evaluate.py --weights small_int8.onnx --data data/shapes.data" in text


def test_every_format_lies_beside_the_weights(project: Path) -> None:
    for name in ("openvino", "tensorrt_rtx", "ncnn", "pnnx"):
        pytest.importorskip(name)
    text = succeed(project, "export.py", *FILES, "--format", "ncnn,openvino,onnx,tensorrt,torchscript")
    made = ["onnx", "xml", "bin", "engine", "engine.json", "torchscript"]
    made += ["ncnn.param", "ncnn.bin", "ncnn.param.json"]
    present = {path.name for path in project.glob("small.*")} - {"small.cfg", "small.weights"}
    assert present == {f"small.{suffix}" for suffix in made}
    for line in (
        "tensorrt: built, but not run",
        "openvino: compared with torch on batch 1",
        "ncnn: takes one",
    ):
        assert line in text


def test_raw_heads_and_suppression_are_written_in_half(project: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for option, outputs in (("--raw-heads", ["head_0", "head_1"]), ("--nms", ["detections"])):
        succeed(project, "export.py", *FILES, "--precision", "fp16", option, "--output", "out")
        session = onnxruntime.InferenceSession(str(project / "out/small_fp16.onnx"))
        assert [output.name for output in session.get_outputs()] == outputs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--precision", "int8"),
            "--precision int8: int8 needs images to find the ranges of activations; add --data",
        ),
        (("--int8-skip", "auto"), "--int8-skip: applies only to --precision int8, not fp32; leave it out"),
        (
            ("--precision", "int8", *DATA, "--int8-skip", "4"),
            "--int8-skip 4: not a convolution that can be quantized; choose",
        ),
        (("--opset", "99"), "--opset 99: unsupported for fp32, which needs opset 11 to 20; use 17"),
        (("--format", "onnx,ncnn", "--dynamic", "batch"), "ncnn: a file takes one image of one size; leave"),
        (
            ("--format", "onnx,ncnn", "--precision", "int8", *DATA),
            "ncnn int8: its quantizer is a separate C++ program",
        ),
        (("--format", "onnx,torchscript", "--precision", "int8", *DATA), "TorchScript int8: "),
        (
            ("--format", "onnx,tensorrt", "--nms"),
            "--nms: tensorrt cannot take over ONNX's NMS operator",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    words: tuple[str, ...], message: str, project: Path, fail: Fail
) -> None:
    pytest.importorskip("onnxruntime")
    assert message in fail("export.py", *FILES, *words)
    assert not list(project.glob("*.onnx"))


def test_a_size_that_the_strides_do_not_allow_is_refused(project: Path, fail: Fail) -> None:
    assert "multiples of 16" in fail("export.py", *FILES, "--img_size", "64", "70")
    assert not list(project.glob("*.onnx"))


def test_a_typo_in_the_cfg_is_named_by_its_line(project: Path, fail: Fail) -> None:
    lines = CFG.splitlines()
    number = lines.index("from=-3")
    lines[number] = "from=-300"
    (project / "small.cfg").write_text("\n".join(lines))
    message = fail("evaluate.py", *FILES, *DATA)
    assert message.startswith(f"small.cfg:{number + 1}: [shortcut] #4: from=-300 ")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda data: data[:-4], "1 of its .* floats are missing"),
        (lambda data: data + bytes(4), "1 floats are left over"),
        (lambda data: b"", "is empty"),
    ],
    ids=["truncated", "padded", "empty"],
)
def test_weights_of_another_length_are_refused(
    project: Path, fail: Fail, change: Callable[[bytes], bytes], fact: str
) -> None:
    path = project / "small.weights"
    path.write_bytes(change(path.read_bytes()))
    message = fail("evaluate.py", *FILES, *DATA)
    assert re.match(f"small.weights: .*{fact}", message)


def test_errors_end_the_process_with_one_line_and_code_2(project: Path) -> None:
    done = run(project, "evaluate.py", "--cfg", "no.cfg", "--weights", "small.weights", *DATA)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no.cfg: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_list_is_named(project: Path, fail: Fail) -> None:
    (project / "data/shapes/valid.txt").unlink()
    message = fail("evaluate.py", *FILES, *DATA)
    assert "valid.txt" in message


def test_the_demo_is_never_mixed_in(project: Path, fail: Fail) -> None:
    assert "--weights: missing beside --cfg" in fail("export.py", "--cfg", "small.cfg")


def test_a_checkpoint_needs_no_cfg(project: Path) -> None:
    torch.manual_seed(0)
    save_weights(Darknet.from_cfg(project / "small.cfg"), project / "best.pt")
    succeed(project, "export.py", "--weights", "best.pt")
    assert (project / "best.onnx").exists()
    assert not (project / "best.cfg").exists()


def test_pruning_a_checkpoint_alone_names_its_files_after_it(project: Path) -> None:
    save_weights(Darknet.from_cfg(project / "small.cfg"), project / "best.pt")
    text = succeed(project, "slim_prune.py", "--weights", "best.pt", *DATA, *SLIM, "--no-eval")
    stem = "prune_0.5_keep_0.1_best"
    assert {path.name for path in project.glob("prune_*")} == {
        f"{stem}.cfg",
        f"{stem}.weights",
        f"{stem}.json",
        f"{stem}.html",
    }
    assert text.splitlines()[-1].endswith("--data data/shapes.data --t_weights best.pt")


@pytest.mark.parametrize("script", ["evaluate.py", "slim_prune.py", "export.py", "train.py"])
def test_a_network_without_heads_is_refused(project: Path, fail: Fail, script: str) -> None:
    (project / "small.cfg").write_text(CFG[: CFG.index("[yolo]")])
    assert "has no [yolo] section" in fail(script, *FILES, *(() if script == "export.py" else DATA))


def test_nothing_is_written_when_the_proof_fails(
    project: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Darknet, *_: object) -> Darknet:
        """Changes a layer after the compact network has been cut."""
        model.layers[13].conv.bias.data += 1e-3
        return model

    monkeypatch.setattr("utils.frontends.darknet.subject.zero_removed", broken)
    assert re.match(
        r".*zeroed / compact: .*computes different outputs; nothing was written",
        fail("slim_prune.py", *FILES, *SLIM),
    )
    assert not list(project.glob("*prune_*"))


def test_the_next_command_can_be_typed_with_spaces_in_names(project: Path) -> None:
    (project / "small.cfg").rename(project / "my net.cfg")
    text = succeed(project, "slim_prune.py", "--cfg", "my net.cfg", *FILES[2:], *SLIM)
    words = shlex.split(text.splitlines()[-1].removeprefix("next: python "))
    done = run_forked(project, words[0], *words[1:])
    assert done.returncode == 0, done.stderr


SLIM = ("--global_percent", "0.5", "--layer_keep", "0.1")


def test_slim_prune_writes_three_files_and_figures_of_the_saved_one(project: Path) -> None:
    text = succeed(project, "slim_prune.py", *FILES, *DATA, *SLIM)
    assert "mAP@0.5" in text
    stem = f"{project}/prune_0.5_keep_0.1_small"
    report = json.loads(Path(f"{stem}.json").read_text())
    saved = Darknet.from_cfg(f"{stem}.cfg")
    load_weights(saved, f"{stem}.weights")
    assert report["after"]["parameters"] == count_parameters(saved) < report["before"]["parameters"]
    assert report["after"]["file_size"] == Path(f"{stem}.weights").stat().st_size
    assert report["after"]["macs"] == count_macs(saved, (64, 64)) < report["before"]["macs"]
    filters = {i: s.filters for i, s in enumerate(saved.network.sections) if s.kind == "convolutional"}
    assert {s["index"]: s["filters_after"] for s in report["sections"]} == filters
    assert report["strategy"] == "slim_prune"
    assert report["arguments"]["global_percent"] == 0.5
    assert report["score"] == "gamma"
    assert report["per_class"].keys() == {"before", "gamma_masked", "folded", "compact"}
    assert report["per_class"]["compact"].keys() == {"circle", "square", "triangle", "star"}
    ledger = {line["name"]: line for line in report["ledger"]}
    assert all(line["passed"] for line in report["ledger"])
    for exact in ("zeroed / compact", "compact / .weights read back"):
        assert ledger[exact]["difference"] < 1e-10
    for program in ("OpenCV", "ONNX"):
        assert ledger[f"compact / {program}"]["difference"] < ledger[f"compact / {program}"]["tolerance"]
    for stage in ("before", "gamma_masked", "folded", "after"):
        assert 0 <= report[stage]["map50"] <= 1
    assert 0 < report["after"]["latency_ms"]["p50"] <= report["after"]["latency_ms"]["p95"]
    assert report["command"].startswith("python slim_prune.py --cfg small.cfg")


def test_layer_prune_removes_blocks_and_can_follow_slim_prune(project: Path) -> None:
    succeed(project, "slim_prune.py", *FILES, *SLIM, "--output", "one")
    text = succeed(
        project, "layer_prune.py", "--cfg", "one/prune_0.5_keep_0.1_small.cfg",
        "--weights", "one/prune_0.5_keep_0.1_small.weights", "--shortcuts", "2", "--output", "two",
    )  # fmt: skip
    assert "2 blocks removed" in text
    stem = f"{project}/two/prune_2_shortcut_prune_0.5_keep_0.1_small"
    report = json.loads(Path(f"{stem}.json").read_text())
    assert report["after"]["map50"] is None
    assert sum(section["removed"] for section in report["sections"]) == 4
    assert len(Darknet.from_cfg(f"{stem}.cfg").network) == 20 - 2 * 3


@pytest.mark.parametrize(
    ("script", "words", "fact"),
    [
        ("slim_prune.py", ("--global_percent", "1"), "removes all"),
        ("layer_prune.py", ("--shortcuts", "9"), "9 blocks asked for, but this network has 3"),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_nothing_is_written(
    project: Path, fail: Fail, script: str, words: tuple[str, ...], fact: str
) -> None:
    before = sorted(project.rglob("*"))
    assert fact in fail(script, *FILES, *words)
    assert sorted(project.rglob("*")) == before


def test_a_data_set_of_other_classes_is_refused_before_pruning(project: Path, fail: Fail) -> None:
    (project / "data/shapes.names").write_text("one\ntwo\n")
    data = (project / "data/shapes.data").read_text().replace("classes = 4", "classes = 2")
    (project / "data/shapes.data").write_text(data)
    assert "2 classes" in fail("slim_prune.py", *FILES, *DATA)
    assert not list(project.glob("prune_*"))
