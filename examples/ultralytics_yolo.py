"""An Ultralytics detector, start to finish: trained, pruned to a budget, fine-tuned, exported, read back.

    python -m pip install ultralytics       # under the AGPL; this project does not contain or need it
    python -m examples.ultralytics_yolo --model yolo11n.yaml --data my.yaml --max-macs 40%
    python -m examples.ultralytics_yolo --model best.pt --data my.yaml --epochs 0 --max-params 30%

--model is a yaml, trained first, or a checkpoint of your classes. --data is a yaml of Ultralytics, or a .data
file of Darknet. Everything goes to --folder: full/ and tuned/ are training runs of Ultralytics, pruned.pt is
a checkpoint that `YOLO("pruned.pt")` reads, pruned.json the plan, tuned.onnx the export, report.html a page.

`YOLO("pruned.pt").train(...)` would build the full network of its yaml again, without a word. To train a
pruned one give the trainer of this file:

    from ultralytics import YOLO
    from examples.ultralytics_yolo import pruned_trainer
    YOLO("pruned.pt").train(data="my.yaml", trainer=pruned_trainer(), epochs=50)
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slim import Plan, apply_plan, load, slim

FOLDER = Path("runs/ultralytics")
OFFLINE = {"amp": False, "plots": False, "exist_ok": True}  # amp and plots download files first


def main(words: Sequence[str] | None = None) -> None:
    """Go the whole way and print a table."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--model", default="yolo11n.yaml", help="a yaml, or a checkpoint of your classes")
    parser.add_argument("--data", type=Path, required=True, help="a yaml, or a .data file of Darknet")
    parser.add_argument("--epochs", type=int, default=100, help="of the full network (100); 0 for none")
    parser.add_argument("--tune-epochs", type=int, default=50, help="of the pruned network (50)")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the images (640)")
    parser.add_argument("--batch", type=int, default=16, help="images a step (16)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (2)")
    parser.add_argument("--max-macs", default=None, help="limit of multiply-adds, such as 40%%")
    parser.add_argument("--max-params", default=None, help="limit of parameters, such as 30%%")
    parser.add_argument("--max-ms", default=None, help="limit of milliseconds, such as 60%%; see --runtime")
    parser.add_argument("--runtime", default="torch", help="where milliseconds are measured (torch)")
    parser.add_argument("--score", default="group", help="of the channels, see slim.py (group)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"of everything written ({FOLDER})")
    given = parser.parse_args(words)
    limits = {name: getattr(given, name) for name in ("max_macs", "max_params", "max_ms")}
    if not any(limits.values()):
        limits["max_macs"] = "50%"
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = str(yaml_of(given.data, folder) if given.data.suffix == ".data" else given.data)
    common = {"data": data, "imgsz": given.imgsz, "batch": given.batch, "workers": given.workers, **OFFLINE}
    walk(given.model, limits, common, folder, (given.epochs, given.tune_epochs), given.score, given.runtime)


def walk(
    model: str,
    limits: Mapping[str, Any],
    common: Mapping[str, Any],
    folder: Path,
    epochs: tuple[int, int],
    score: str = "group",
    runtime: str = "torch",
) -> list[tuple[str, ...]]:
    """Train, prune, fine-tune, evaluate, export, read back; the rows of the table that it prints.

    Args:
        model: a yaml, or a checkpoint.
        limits: of `slim`.
        common: arguments of every training: data, imgsz, batch, workers.
        folder: of everything written.
        epochs: of the full and of the pruned network.
        score: of the channels.
        runtime: where milliseconds are measured.
    """
    from ultralytics import YOLO

    full = YOLO(model)
    if epochs[0]:
        full.train(epochs=epochs[0], project=str(folder), name="full", **common)
    network, size = full.model.float().cpu().eval(), int(common["imgsz"])
    result = slim(network, torch.zeros(1, 3, size, size), score=score, runtime=runtime, **limits)
    print(result.report)
    result.page(folder / "report.html", title=f"{model}, pruned")
    save(result.model, folder / "pruned.pt")
    (folder / "pruned.json").write_text(json.dumps(result.plan.to_json()), encoding="utf-8")

    tuned = YOLO(folder / "pruned.pt")
    if epochs[1]:
        tuned.train(trainer=pruned_trainer(), epochs=epochs[1], project=str(folder), name="tuned", **common)
    exported = Path(tuned.export(format="onnx", imgsz=size))
    exported = exported.replace(folder / "tuned.onnx")
    again = by_plan(network, json.loads((folder / "pruned.json").read_text(encoding="utf-8")), tuned.model)

    report = result.report
    sizes = [(f"{report.parameters[place]:,}", f"{report.macs[place]:,}") for place in (0, 1)]
    read = YOLO(folder / "pruned.pt")
    read.model = again
    rows: list[tuple[str, ...]] = [("network", "mAP50", "mAP50-95", "parameters", "multiply-adds")]
    for name, of, size_of in (
        ("full", full, sizes[0]),
        ("pruned", YOLO(folder / "pruned.pt"), sizes[1]),
        ("fine-tuned", tuned, sizes[1]),
        ("ONNX", YOLO(exported), sizes[1]),
        ("read back by the plan", read, sizes[1]),
    ):
        rows.append((name, *accuracy(of, common), *size_of))
    for row in rows:
        print("".join(f"{cell:>{22 if place == 0 else 15}}" for place, cell in enumerate(row)))
    return rows


def pruned_trainer() -> type:
    """A trainer of Ultralytics that trains the network it is given, where theirs builds that of its yaml."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class PrunedTrainer(DetectionTrainer):  # type: ignore[misc]
        """Trains a pruned network as it is."""

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            """The given network, whatever its yaml says."""
            del cfg, verbose
            if not isinstance(weights, nn.Module):
                raise TypeError('no weights: start with YOLO("pruned.pt")')
            for parameter in weights.parameters():
                parameter.requires_grad = True
            return self.set_model_names_for_load(weights.float())  # type: ignore[no-any-return]

    return PrunedTrainer


def save(model: nn.Module, path: Path) -> None:
    """Write a checkpoint that `YOLO(path)` reads: Ultralytics stores the network itself, of its own class."""
    network = deepcopy(model).half()
    vars(network)["criterion"] = None
    arguments = {"task": "detect", "model": str(path), "imgsz": 640}
    part = path.with_suffix(".part")
    torch.save({"epoch": -1, "model": network, "train_args": arguments}, part)
    part.replace(path)


def by_plan(network: nn.Module, plan: Mapping[str, Any], tuned: nn.Module) -> nn.Module:
    """The pruned network without its checkpoint: the full one, narrowed by the plan, with tuned weights."""
    narrow = apply_plan(network, Plan.from_json(plan))
    load(narrow, tuned.float().cpu().state_dict())
    return narrow.eval()


def accuracy(model: Any, common: Mapping[str, Any]) -> tuple[str, str]:
    """MAP at IoU 0.5, and from 0.5 to 0.95, on the validation images."""
    wanted = {name: common[name] for name in ("data", "imgsz", "batch", "workers", "plots")}
    box = model.val(verbose=False, **wanted).box
    return f"{box.map50:.4f}", f"{box.map:.4f}"


def yaml_of(data: Path, folder: Path) -> Path:
    """A yaml for Ultralytics of a .data file, with links to its images, since it writes beside the labels."""
    lines = (line.split("=", 1) for line in data.read_text(encoding="utf-8").splitlines() if "=" in line)
    entries = {name.strip(): value.strip() for name, value in lines}
    home, target = data.resolve().parent, folder / "data"
    target.mkdir(parents=True, exist_ok=True)
    for part in ("images", "labels"):
        if not (target / part).exists():
            (target / part).symlink_to(home / part)
    text = [f"path: {target}"]
    for split in ("train", "valid"):
        names = Path(entries[split])
        listed = next(path for path in (names, home / names, home / names.name) if path.exists())
        images = (Path(line).name for line in listed.read_text(encoding="utf-8").split() if line)
        (target / f"{split}.txt").write_text("".join(f"{target}/images/{name}\n" for name in images))
        text.append(f"{'val' if split == 'valid' else split}: {split}.txt")
    names = next(
        path for path in (Path(entries["names"]), home / Path(entries["names"]).name) if path.exists()
    )
    text.append("names:")
    text += [f"  {number}: {name}" for number, name in enumerate(names.read_text(encoding="utf-8").split())]
    (target / "data.yaml").write_text("\n".join(text) + "\n", encoding="utf-8")
    return target / "data.yaml"


if __name__ == "__main__":
    main()
