"""The whole way on a small data set that the project makes itself: `make demo`.

Trains a small YOLOv3, makes it sparse, prunes channels and blocks, fine-tunes with the unpruned network as
teacher, exports to ONNX, and compares all stages in one table and one picture, beside them as a control the
pruned network trained from random weights for as many epochs as the first. Every step is a command that
you could type; it is shown before it runs. Everything goes to runs/demo/.
"""

import sys

from ..cli import child, program, start

if __name__ == "__main__":  # as `python -m`: the command prepares the environment before it imports torch
    start("demo")
    sys.exit()

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ..darknet.checkpoint import save_weights
from ..darknet.model import Darknet, deployed_run
from ..data.dataset import Sample
from ..data.images import read_image
from ..data.listing import read_data_file
from ..detection.boxes import suppress
from ..detection.draw import draw_detections
from ..detection.evaluator import Scoring, evaluate
from ..errors import ToolkitError
from ..options import from_arguments, option
from ..profiling import measure_latency
from ..pruning.costs import count_macs, count_parameters
from ..runtimes.detecting import as_predict
from ..runtimes.onnxruntime import OnnxRuntime
from .arguments import MachineOptions, Parser, add_command, next_command, prepare, provenance, write_json
from .evaluate.run import evaluate_network, open_split, predictor
from .inputs import DemoFiles, available, open_files
from .output import quoted, show

BASELINE_EPOCHS, SPARSE_EPOCHS, FINE_TUNING_EPOCHS = 20, 12, 12
S, GLOBAL_PERCENT, LAYER_KEEP, SHORTCUTS = 0.001, 0.7, 0.05, 8
PICTURES, SHOWN, TILE = 6, 0.3, 400


@dataclass(frozen=True)
class Stage:
    """One network on the way, and what is measured of it."""

    name: str
    cfg: Path
    weights: Path


@dataclass(frozen=True)
class Row:
    """One line of the last table; sizes in bytes, latency in ms, mAP as a fraction."""

    stage: str
    map50: float
    parameters: int
    macs: int
    weights_size: int
    latency_p50: float


@dataclass(frozen=True)
class DemoOptions(MachineOptions):
    """What the demo can be asked for."""

    output: Path = option(Path("runs/demo"), "folder for all files", Path, metavar="DIR")


def main(argv: Sequence[str] | None = None) -> None:
    """Run all steps, then compare."""
    parser = Parser(__doc__, "demo")
    add_command(parser, DemoOptions)
    options = from_arguments(DemoOptions, parser.parse_args(argv))
    prepare(options)
    start = time.monotonic()
    demo = DemoFiles.here()
    data = available(demo.data)
    stages, onnx = _run_steps(options, available(demo.cfg), data)
    rows = _measure(stages, onnx, data)
    picture = _draw(stages[0], stages[-1], data, options.output / "before_after.png")
    minutes = (time.monotonic() - start) / 60
    write_json(options.output / "demo.json", provenance(options) | {"minutes": minutes, "stages": rows})
    _print(rows)
    print(f"{minutes:.1f} minutes; detections of the first and the last network: {picture}")
    next_command("python train.py -sr --s 0.001 --prune 1")


def _run_steps(options: DemoOptions, cfg: Path, data: Path) -> tuple[list[Stage], Path]:
    """Every step as a command; returns the networks on the way and the ONNX file of the last."""
    out = options.output
    tag = f"prune_{GLOBAL_PERCENT}_keep_{LAYER_KEEP}"
    baseline = Stage("baseline", cfg, out / "baseline/best.pt")
    sparse = Stage("sparse", cfg, out / "sparse/last.pt")
    slim = Stage("channels pruned", out / f"slim/{tag}_{cfg.stem}.cfg", out / f"slim/{tag}_last.weights")
    tag = f"layers/prune_{SHORTCUTS}_shortcut_{tag}"
    short = Stage("blocks pruned", out / f"{tag}_{cfg.stem}.cfg", out / f"{tag}_last.weights")
    scratch = Stage("pruned, from scratch", short.cfg, out / "scratch/best.pt")
    tuned = Stage("fine-tuned", short.cfg, out / "fine_tuned/best.pt")

    # One thread: layers this small gain nothing from a second, which stalls as soon as it must share a core.
    threads = options.threads or 1
    machine = (
        f"--seed {options.seed} --workers {options.workers} --device {options.device} --threads {threads}"
    )
    common = f"--data {quoted(data)} {machine}"
    _run("train", "train", f"--cfg {quoted(cfg)} {common} --epochs {BASELINE_EPOCHS} {_into(baseline)}")
    start = f"--cfg {quoted(cfg)} --weights {quoted(baseline.weights)}"
    sparsely = f"-sr --s {S} --prune 1 --epochs {SPARSE_EPOCHS}"
    _run("train sparse", "train", f"{start} {common} {sparsely} {_into(sparse)}")
    strategy = f"--global_percent {GLOBAL_PERCENT} --layer_keep {LAYER_KEEP}"
    _run("prune channels", "slim-prune", f"{_network(sparse)} {common} {strategy} {_into(slim)}")
    _run("prune blocks", "layer-prune", f"{_network(slim)} {common} --shortcuts {SHORTCUTS} {_into(short)}")
    control = f"--scratch e --epochs {BASELINE_EPOCHS} {_into(scratch)}"
    _run("train from scratch", "train", f"{_network(short)} {common} {control}")
    teacher = f"--t_cfg {quoted(cfg)} --t_weights {quoted(baseline.weights)}"
    tuning = f"--epochs {FINE_TUNING_EPOCHS} {teacher} {_into(tuned)}"
    _run("fine-tune", "train", f"{_network(short)} {common} {tuning}")
    _run("export", "export", f"{_network(tuned)} --data {quoted(data)} {_into(tuned)}")
    return [baseline, sparse, slim, short, scratch, tuned], tuned.weights.with_suffix(".onnx")


def _network(stage: Stage) -> str:
    return f"--cfg {quoted(stage.cfg)} --weights {quoted(stage.weights)}"


def _into(stage: Stage) -> str:
    return f"--output {quoted(stage.weights.parent)}"


def _run(title: str, command: str, options: str) -> None:
    """Run a command as its own process, its output shown.

    Raises:
        ToolkitError: it failed; it has said why.
    """
    print(f"\n== {title}\n$ {program(command)} {options}", flush=True)
    status = subprocess.run([*child(command), *shlex.split(options)], check=False).returncode
    if status:
        raise ToolkitError("demo", f"the step '{title}' ended with exit code {status}", "see above")


def _load(stage: Stage) -> Darknet:
    return open_files(stage.cfg, stage.weights).eval()


def _measure(stages: Sequence[Stage], onnx: Path, data: Path) -> list[Row]:
    """Evaluate all stages again and measure them interleaved, the ONNX file of the last one among them."""
    models = {stage.name: _load(stage) for stage in stages}
    network = models["baseline"].network
    size = network.height, network.width
    listed = read_data_file(data)
    loader = open_split(listed, "valid", models["baseline"], size)
    maps = {name: evaluate_network(m, loader, listed.names, label=name).map50 for name, m in models.items()}
    detect, image = as_predict(OnnxRuntime().load(onnx), str(onnx)), torch.rand(1, 3, *size)
    specs = models["fine-tuned"].head_specs
    onnx_map = evaluate(detect, loader, listed.names, Scoring(specs=specs)).map50
    runs = {name: deployed_run(model, size) for name, model in models.items()}
    latencies = measure_latency({**runs, "ONNX": lambda: detect(image)})
    rows = []
    for stage in stages:
        weights = stage.weights.with_suffix(".weights")
        save_weights(models[stage.name], weights)
        macs, parameters = count_macs(models[stage.name], size), count_parameters(models[stage.name])
        latency = latencies[stage.name].p50
        rows.append(Row(stage.name, maps[stage.name], parameters, macs, weights.stat().st_size, latency))
    last = rows[-1]
    onnx_row = Row("ONNX (onnxruntime)", onnx_map, last.parameters, last.macs, onnx.stat().st_size,
                   latencies["ONNX"].p50)  # fmt: skip
    return [*rows, onnx_row]


def _print(rows: Sequence[Row]) -> None:
    table = Table()
    for column in ("", "mAP@0.5", "parameters", "MACs", ".weights", "latency p50"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        share = row.parameters / rows[0].parameters
        table.add_row(
            row.stage,
            f"{100 * row.map50:.1f} %",
            f"{row.parameters:,} ({share:.0%})",
            f"{row.macs / 1e6:.0f} M",
            f"{row.weights_size / 2**20:.2f} MiB",
            f"{row.latency_p50:.2f} ms",
        )
    show("demo: from the trained network to the small one", table)


def _draw(first: Stage, last: Stage, data: Path, path: Path) -> Path:
    """The same validation images twice, above by the first network, below by the last."""
    listed = read_data_file(data)
    models = [_load(first), _load(last)]
    size = models[0].network.height, models[0].network.width
    dataset = open_split(listed, "valid", models[0], size).dataset
    columns = []
    for number in range(PICTURES):
        sample = dataset[number]
        assert isinstance(sample, Sample)  # the data set has just been made
        original = read_image(sample.path)
        small = sample.image[None].float() / 255
        tiles = [_tile(model, small, original, listed.names) for model in models]
        columns.append(np.concatenate(tiles))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(columns, axis=1), cv2.COLOR_RGB2BGR))
    return path


def _tile(model: Darknet, small: Tensor, original: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A square picture of about TILE pixels with the detections of one network."""
    with torch.inference_mode():
        detections = suppress(predictor(model)(small)[0], SHOWN).numpy()
    stretch = original.shape[1] / small.shape[3], original.shape[0] / small.shape[2]
    detections[:, :4] *= np.array([*stretch, *stretch], dtype=np.float32)
    drawn = draw_detections(original, detections, names, enlarge=2)
    scale = TILE / max(drawn.shape[:2])
    drawn = np.asarray(cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    tile = np.full((TILE + 8, TILE + 8, 3), 255, np.uint8)
    tile[4 : 4 + drawn.shape[0], 4 : 4 + drawn.shape[1]] = drawn
    return tile
