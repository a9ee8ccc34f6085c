"""Which sections `--int8-skip auto` leaves in float."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exporters.networks import SPECS, TwoHeads, noise, small_job
from utils.errors import ExportError
from utils.exporters.job import Accuracy, Exporting
from utils.exporters.onnx import export_onnx
from utils.exporters.parity import Infer
from utils.exporters.tracing import BoxesAndScores

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
BEFORE = 0.8


def frail() -> TwoHeads:
    """Its stem needs more than 127 levels: one map is a thousand times as large as the others."""
    model = TwoHeads()
    with torch.no_grad():
        model.stem[0].weight[0] *= 1000
        model.stem[1].weight[0] *= 1000
        model.down[0].weight[:, 0] /= 1000
        model.fine.weight[:, 0] /= 1000
    return model


def measured_by_error(model: TwoHeads, factor: float) -> Callable[[Infer], float]:
    """A "mAP" that falls by the error of the scores, so that the sections' order has an oracle."""
    images = noise()[0][:1]
    with torch.no_grad():
        wanted = BoxesAndScores(model, SPECS).eval()(torch.from_numpy(images))[1].numpy()

    def measure(infer: Infer) -> float:
        return BEFORE - factor * float(np.abs(infer(images)[1] - wanted).max() / wanted.max())

    return measure


def automatic(model: TwoHeads, measure: Callable[[Infer], float]) -> Exporting:
    return small_job(model, precision="int8", int8_skip="auto", accuracy=Accuracy(BEFORE, measure))


def test_the_section_that_costs_most_is_found_and_said(tmp_path: Path) -> None:
    model = frail()
    measure = measured_by_error(model, 1.0)
    alone = {}
    for section in range(4):
        skip = tuple(other for other in range(4) if other != section)
        job = small_job(model, precision="int8", int8_skip=skip)
        infer = export_onnx(job, tmp_path / f"{section}.onnx").infer
        assert infer is not None
        alone[section] = BEFORE - measure(infer)
    worst = max(alone, key=lambda section: alone[section])
    factor = 0.015 / alone[worst]  # it alone costs more than a point
    exported = export_onnx(automatic(model, measured_by_error(model, factor)), tmp_path / "net.onnx")
    listed = exported.note.rpartition("--int8-skip ")[2].split(",")
    assert str(worst) in listed
    assert len(listed) < 4
    assert exported.accuracy is not None
    assert BEFORE - exported.accuracy <= 0.01


def test_nothing_stays_in_float_without_need(tmp_path: Path) -> None:
    exported = export_onnx(automatic(TwoHeads(), lambda infer: BEFORE - 0.009), tmp_path / "net.onnx")
    assert exported.note == "all convolutions are in int8"
    kinds = [node.op_type for node in onnx.load(exported.paths[0]).graph.node]
    assert kinds.count("QuantizeLinear") > 0


def test_a_network_that_bears_no_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"auto: loses 30\.0 points .* single section .*export fp16"):
        export_onnx(automatic(TwoHeads(), lambda infer: BEFORE - 0.3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whatever_it_loses(tmp_path: Path) -> None:
    accuracy = Accuracy(BEFORE, lambda infer: BEFORE - 0.029)
    exported = export_onnx(small_job(precision="int8", accuracy=accuracy), tmp_path / "net.onnx")
    assert exported.accuracy == pytest.approx(BEFORE - 0.029)
    assert exported.paths[0].exists()


def test_auto_on_raw_heads_is_refused(tmp_path: Path) -> None:
    job = small_job(precision="int8", int8_skip="auto", raw_heads=True)
    with pytest.raises(ExportError, match="needs boxes and scores to measure mAP; leave --raw-heads out"):
        export_onnx(job, tmp_path / "net.onnx")


def test_every_section_is_ranked_under_the_bar(tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(items: Sequence[int], label: str) -> Iterable[int]:
        seen.extend(items)
        return items

    measured = iter([BEFORE - 0.02, BEFORE])  # all in int8, then without the worst
    job = replace(automatic(TwoHeads(), lambda infer: next(measured)), progress=progress)
    assert export_onnx(job, tmp_path / "net.onnx").note.startswith("1 of 4 convolutions stay in float")
    assert seen == [0, 1, 2, 3]


def test_no_more_sections_stay_in_float_than_must(tmp_path: Path) -> None:
    """Enough from 3 on: 1 and 2 are tried on the way, and nothing twice."""
    counts = []

    def measure(infer: Infer) -> float:
        counts.append(len(counts))
        return BEFORE - (0.005 if len(counts) == 4 else 0.02)

    exported = export_onnx(automatic(TwoHeads(), measure), tmp_path / "net.onnx")
    assert exported.note.startswith("3 of 4 convolutions stay in float")
    assert len(counts) == 4
