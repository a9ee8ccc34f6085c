"""The scripts, with --classic, on the weights that the published programs were run on: files and report."""

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from tests.frontends.golden import GOLDEN, NETS, structure
from tests.sampling import some
from utils.darknet.edit import residual_blocks
from utils.darknet.network import Network
from utils.errors import PruningError

RUNS = (  # every script on yolov3, the fast ones on tiny
    "yolov3-tiny-1cls--prune-0.85",
    "yolov3-tiny-1cls--shortcut_prune-0.5",
    "yolov3-tiny-1cls--slim_prune-0.93-0.1",
    "yolov3-hand--prune-0.5",
    "yolov3-hand--shortcut_prune-0.5",
    "yolov3-hand--slim_prune-0.8-0.01",
    "yolov3-hand--layer_prune-16",
    "yolov3-hand--layer_channel_prune-16-0.93-0.01",
)


@pytest.fixture(scope="module")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a net's cfg and fixed weights once; gives the cfg's path."""
    folder = tmp_path_factory.mktemp("golden")
    spec = spec_from_file_location("recipe", GOLDEN / "make_weights.py")
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)

    def of(net: str) -> Path:
        cfg = folder / f"{net}.cfg"
        if not cfg.exists():
            cfg.write_text((GOLDEN / f"{net}.cfg").read_text())
            header = np.array([0, 2, 5, 0, 0], "<i4").tobytes()
            values = [values.tobytes() for _, parts in recipe.blobs(cfg) for _, values in parts]
            cfg.with_suffix(".weights").write_bytes(header + b"".join(values))
        return cfg

    return of


def run_script(run: dict, cfg: Path, output: Path) -> tuple[Network, dict]:
    """What it wrote: the network and the report."""
    files = ["--cfg", str(cfg), "--weights", str(cfg.with_suffix(".weights")), "--output", str(output)]
    quick = ["--classic", "--no-eval", "--verify", "quick", "--no-report"]
    import_module(run["script"].removesuffix(".py")).main([*files, *run["args"], *quick])
    (written,), (report,) = output.glob("*.cfg"), output.glob("*.json")
    return Network.from_cfg(written), json.loads(report.read_text())


def golden(name: str) -> tuple[str, dict]:
    net = next(net for net in NETS if name.startswith(f"{net}--"))
    runs = json.loads((GOLDEN / f"{net}.json").read_text())["runs"]
    return net, next(run for run in runs if run["run"] == name)


@pytest.mark.parametrize("name", some(RUNS))
def test_script_writes_what_the_published_one_wrote(name, weights, tmp_path):
    net, run = golden(name)
    network, report = run_script(run, weights(net), tmp_path)
    assert [s.filters for s in network.sections if s.kind == "convolutional"] == run["filters"]
    assert structure(network) == run["structure"]
    assert report["after"]["parameters"] == run["params_after"]
    assert report["threshold"] == run.get("threshold")
    removed = set(run.get("removed_layers", ()))
    ours = [
        b for b in residual_blocks(Network.from_cfg(weights(net))) if b.shortcut in report["removed_blocks"]
    ]
    assert {index for block in ours for index in block.sections} == removed
    kept = {str(section["index"]): section["kept"] for section in report["sections"]}
    assert {i: kept[i] for i in run["masks"] if int(i) not in removed} == {
        i: mask for i, mask in run["masks"].items() if int(i) not in removed
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolov3-hand--layer_prune-30", "30 blocks asked for, but this network has 23"),
        ("yolov3-tiny-1cls--layer_prune-8", "8 blocks asked for, but this network has 0"),
        (
            "yolov3-hand--slim_prune-1.0-0.01",
            "removes all 25920 .*; the largest value is 0.9999",
        ),
    ],
)
def test_what_went_wrong_there_is_an_error_here_and_nothing_is_written(name, message, weights, tmp_path):
    net, run = golden(name)
    with pytest.raises(PruningError, match=message):
        run_script(run, weights(net), tmp_path)
    assert not list(tmp_path.iterdir())
