"""The command measures what is missing, once, and tells how good its sum is."""

import json
import shlex
from pathlib import Path

import pytest
import torch

import latency as script
import slim_prune
from utils.commands.latency import measure as latency_measure
from utils.commands.latency.measure import Branches, find_or_measure, spaced_widths
from utils.commands.latency.network import darknet_convolutions, network_latencies
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.errors import ToolkitError
from utils.pruning.latency import ConvClass, LatencyTable
from utils.runtimes.runtime import find_runtime

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\ngroups={}\nactivation={}\n"
CFG = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n"
    + CONV.format(16, 3, 2, 1, "leaky")
    + CONV.format(16, 3, 1, 16, "mish")
    + CONV.format(24, 1, 1, 1, "leaky")
    + CONV.format(16, 3, 2, 2, "leaky")
    + "[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    + "[yolo]\nmask=0,1\nanchors=10,10, 20,20\nclasses=4\nnum=2\n"
)


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr(latency_measure, "SECONDS", 0.0)
    monkeypatch.setattr(latency_measure, "PROBE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.cfg"
    path.write_text(CFG)
    return path


@pytest.fixture
def measured(monkeypatch):
    """Every point that is measured, in order."""
    points = []
    measure = latency_measure.measure_point

    def counting(conv, widths, *rest):
        points.append((conv, widths))
        return measure(conv, widths, *rest)

    monkeypatch.setattr(latency_measure, "measure_point", counting)
    return points


def convolutions(size=(32, 32)):
    return darknet_convolutions(Darknet(Network.from_text(CFG)), size)


def run(cfg, *words) -> LatencyTable:
    script.main(["--cfg", str(cfg), "--widths", "2", "--threads", "1", "--runtime", "torch", *words])
    files = list(cfg.parent.glob("runs/latency/torch-1t-*.json"))
    assert len(files) == 1
    return LatencyTable.from_json(json.loads(files[0].read_text()))


def test_a_second_run_measures_nothing(cfg, measured, capsys) -> None:
    first = run(cfg)
    assert measured
    done = len(measured)
    assert run(cfg) == first
    assert len(measured) == done
    out = capsys.readouterr().out
    assert "measured / predicted" in out
    assert "depthwise:1" in out
    assert out.splitlines()[-1].startswith("next: python ")


def test_the_grid_answers_for_the_network_and_narrower_ones(cfg, measured) -> None:
    table = run(cfg)
    found = convolutions()
    assert {one.conv for one in found} == set(table.points)
    for one in found:
        assert table.milliseconds(one.conv, one.inputs, one.outputs) > 0
        assert table.milliseconds(one.conv, one.inputs, 8) <= table.milliseconds(one.conv, one.inputs, 16)
    assert {inputs for inputs, _ in table.points[found[0].conv]} == {3}  # of the image


def test_an_interrupted_run_keeps_what_it_has(cfg, measured, monkeypatch, tmp_path) -> None:
    counting, runtime, path = latency_measure.measure_point, find_runtime("torch"), tmp_path / "table.json"
    alone = len({one.conv for one in convolutions()})

    def interrupted(conv, widths, *rest):
        if len({conv for conv, _ in measured if conv.height != 52}) == alone - 1:
            raise KeyboardInterrupt
        return counting(conv, widths, *rest)

    monkeypatch.setattr(latency_measure, "measure_point", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_or_measure(convolutions(), runtime, path, count=2)
    before = set(measured)
    measured.clear()
    monkeypatch.setattr(latency_measure, "measure_point", counting)
    find_or_measure(convolutions(), runtime, path, count=2)
    assert measured
    assert not before & set(measured)


def test_a_file_of_another_machine_is_refused_by_what_differs(cfg, measured, tmp_path) -> None:
    path = tmp_path / "table.json"
    runtime = find_runtime("torch")
    find_or_measure(convolutions()[:1], runtime, path, count=1)
    data = json.loads(path.read_text())
    data["fingerprint"]["cpu"] = "abacus"
    path.write_text(json.dumps(data))
    with pytest.raises(
        ToolkitError, match=r"table.json: was measured on another machine or runtime \(cpu: abacus, "
    ):
        find_or_measure(convolutions(), runtime, path)
    path.write_text("[]")
    with pytest.raises(ToolkitError, match=r"table.json: not a valid latency table"):
        find_or_measure(convolutions(), runtime, path)


def test_another_number_of_threads_is_another_file(cfg) -> None:
    mark = latency_measure.fingerprint(find_runtime("torch"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        other = latency_measure.fingerprint(find_runtime("torch"))
    finally:
        torch.set_num_threads(threads)
    assert mark.differences(other) == (f"threads: {threads}, {threads + 1}",)
    assert latency_measure.table_path(mark) != latency_measure.table_path(other)


@pytest.mark.parametrize(
    ("groups", "widths", "shape"),
    [
        ("dense", (5, 7), (7, 5, 3, 3)),
        ("depthwise:2", (1, 8), (8, 1, 3, 3)),
        ("grouped:2", (4, 6), (6, 2, 3, 3)),
    ],
)
def test_what_is_timed_is_the_convolution_of_the_class(groups, widths, shape) -> None:
    conv = ConvClass((3, 3), (2, 2), (1, 1), (2, 2), groups, "mish", 11, 8)
    branches = Branches(conv, widths, 3)
    maps = torch.rand(1, branches.inputs, 11, 8)
    outputs = branches(maps)
    assert len(outputs) == 3
    for branch, output in zip(branches.branches, outputs, strict=True):
        assert branch[0].weight.shape == shape
        assert torch.equal(output, branch[1](branch[0](maps))[:, :, :1, :1])


def test_widths_are_multiples_and_the_full_one() -> None:
    for full in (3, 8, 18, 64, 255, 1024):
        widths = spaced_widths(full, 6, 16)
        assert widths[-1] == full
        assert all(width % 16 == 0 for width in widths[:-1])
        assert len(widths) <= 6


def test_whole_networks_take_turns(cfg) -> None:
    pytest.importorskip("onnxruntime")
    models = {name: Darknet(Network.from_text(CFG)) for name in "ab"}
    found = network_latencies(models, find_runtime("onnxruntime"), (32, 32), rounds=3)
    assert list(found) == ["a", "b"]
    assert all(0 < latency.p50 <= latency.p95 and latency.rounds == 3 for latency in found.values())


def test_the_next_command_needs_no_weights_where_none_were_given(cfg, capsys):
    run(cfg)
    script, *words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: python "))
    assert Path(script).name == "slim_prune.py"
    slim_prune.main(words)
    assert "MACs" in capsys.readouterr().out
