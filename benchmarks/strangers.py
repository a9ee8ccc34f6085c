"""Prune networks that nobody here wrote, by slim and by Torch-Pruning, each in a process of its own.

    python benchmarks/strangers.py                 # all of them; goes on where the CSV file ends
    python benchmarks/strangers.py --only timm/resnet18 ultralytics/yolov8n
    python benchmarks/strangers.py --times         # seconds of both again, on a quiet machine
    python benchmarks/strangers.py --page docs/results/strangers.md

Needs an environment of its own with torch 2.14.1, torchvision 0.29.1 and
    pip install timm ultralytics segmentation-models-pytorch transformers pytorchcv torch-pruning \
        onnx onnxruntime onnxscript
Half of the channels, L1, multiples of 8, random weights with norms spread out by a seed, one thread, small
inputs. Columns of benchmarks/strangers.csv:
    removed, removed_peer    shares of the parameters
    seconds, seconds_proof   of slim (verify="full"): trace, plan and cut; the proof
    seconds_peer             graph and cut
    own_class                whether slim returned the given class
    difference               largest difference of the proof, over the largest output, float64
    independent              the same found out without slim's code (benchmarks/strangers_check.py), with
                             constants dropped; "-" where weights were changed or layers have no columns
    plan                     whether a freshly built network, narrowed by the plan, computes bitwise the same
    onnx                     onnxruntime's largest difference over the largest output, or why there is none
    error, error_peer        why there is no result; a network counts as failed after --limit seconds
What the peer computes is not checked here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not benchmarks, where torch_pruning is the name of another file

import torch
from torch import Tensor, nn

from benchmarks.strangers_check import UnmatchedError, independent_difference, onnx_difference
from benchmarks.strangers_page import page
from utils.commands.csv_results import read_rows, write_rows
from utils.frontends.module.inputs import Inputs
from utils.frontends.module.result import SlimResult
from utils.frontends.module.subject import Plan
from utils.pruning.layers import tensors_in

TABLE = ROOT / "benchmarks" / "strangers.csv"
RATIO, ALIGN, LIMIT = 0.5, 8, 240.0
NETWORKS = {  # package -> side of the images -> names
    "torchvision": {
        64: "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_small "
        "mobilenet_v3_large efficientnet_b0 efficientnet_v2_s regnet_y_400mf regnet_x_400mf "
        "shufflenet_v2_x1_0 densenet121 squeezenet1_1 googlenet mnasnet0_5 convnext_tiny "
        "vgg11_bn swin_t swin_v2_t",
        96: "inception_v3 alexnet",
        224: "vit_b_16 maxvit_t",
    },
    "timm": {
        64: "resnet18 resnetv2_50 efficientnet_b0 mobilenetv3_small_100 ghostnet_100 fasternet_t0 "
        "res2net50_26w_4s hrnet_w18_small dla34 rexnet_100 mnasnet_100 tf_efficientnetv2_b0 "
        "convnext_atto convnextv2_atto poolformer_s12 efficientvit_b0 repvgg_a0 regnetx_002 "
        "regnety_002 nf_resnet50 skresnet18 seresnet18 cspresnet50 cspdarknet53 darknet53 "
        "selecsls42b xception41 densenet121 dpn48b vovnet39a ese_vovnet19b_dw lcnet_050 "
        "tinynet_e hardcorenas_a mixnet_s gernet_s edgenext_xx_small pvt_v2_b0 starnet_s1 "
        "mobilenetv4_conv_small repghostnet_050 fastvit_t8 mobileone_s0 nfnet_l0 "
        "mobilevit_xxs",
        96: "inception_v4",
        224: "vit_tiny_patch16_224 deit_tiny_patch16_224 levit_128s efficientvit_m0 "
        "efficientformer_l1 swin_tiny_patch4_window7_224 mixer_s32_224 gmlp_s16_224 "
        "resmlp_12_224 visformer_tiny coat_tiny",
        240: "crossvit_tiny_240",
        256: "botnet26t_256 maxvit_rmlp_pico_rw_256",
    },
    "ultralytics": {
        64: "yolov5n yolov8n yolov9t yolov10n yolo11n yolo12n yolo26n yolov8n-seg yolov8n-pose",
    },
    "smp": {
        64: "Unet/resnet18 Unet/efficientnet-b0 Unet/mit_b0 UnetPlusPlus/resnet18 MAnet/resnet18 "
        "MAnet/mit_b0 Linknet/resnet18 FPN/resnet18 FPN/mit_b0 DeepLabV3/resnet18 "
        "DeepLabV3Plus/resnet18 UPerNet/resnet18 Segformer/resnet18 Segformer/mit_b0",
        96: "PSPNet/resnet18",
        128: "PAN/resnet18",
    },
    "pytorchcv": {
        224: "shufflenet_g3_w1 menet108_8x1_g3 pyramidnet101_a360 preresnet18 wrn50_2 diracnet18v2 "
        "igcv3_w1 mobilenet_w1 sqnxt23_w1 shufflenetv2b_w1 bninception drnc26 dla60 "
        "hardnet39ds proxylessnas_cpu spnasnet resnesta18 sknet50 scnet50 airnet50_1x64d_r2",
        96: "centernet_resnet18_voc lwopenpose2d_mobilenet_cmupan_coco",
    },
    "transformers": {
        64: "ResNet ConvNext ConvNextV2 MobileNetV1 MobileNetV2 RegNet Segformer ViT DeiT Dinov2 Swin PvtV2 "
        "MobileViT Bert DistilBert GPT2",
    },
}


@dataclass(frozen=True)
class Row:
    """A line of the CSV file; the module says what the columns are. None and "": no result."""

    network: str
    size: int
    parameters: int | None = None
    removed: float | None = None
    removed_peer: float | None = None
    seconds: float | None = None
    seconds_proof: float | None = None
    seconds_peer: float | None = None
    own_class: str = ""
    difference: float | None = None
    independent: str = ""
    plan: str = ""
    onnx: str = ""
    limits: str = ""
    not_followed: int | None = None
    unfolded: int | None = None
    error: str = ""
    error_peer: str = ""


def main() -> None:
    """Run what the CSV file lacks and print the summary."""
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--only", nargs="+", metavar="PACKAGE/NAME", help="these alone, again")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for each network and program")
    parser.add_argument("--times", action="store_true", help="measure the seconds of both once more")
    parser.add_argument("--page", type=Path, help="write the CSV file as Markdown, and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        program, network, size = args.one.split(":")
        by = {"slim": by_slim, "peer": by_peer, "time": by_time}[program]
        print(json.dumps(by(network, int(size))))
        return
    rows = {row.network: row for row in read_rows(TABLE, Row)}
    if args.page:
        args.page.write_text(page(list(rows.values())), encoding="utf-8")
        return
    if args.times:
        measure_again(rows, args.limit)
        return
    wanted = [
        (f"{package}/{name}", size)
        for package, sizes in NETWORKS.items()
        for size, names in sizes.items()
        for name in names.split()
    ]
    for network, size in wanted:
        if (network in args.only) if args.only else network not in rows:
            found: dict[str, Any] = {}
            for program in ("slim", "peer"):
                found |= _in_a_process(program, network, size, args.limit)
            rows[network] = Row(network, size, **found)
            shown = asdict(rows[network]).items()
            print(
                ", ".join(f"{name} {value}" for name, value in shown if value not in (None, "")), flush=True
            )
            write_rows(TABLE, list(rows.values()))
    _summary(list(rows.values()))


def _in_a_process(program: str, network: str, size: int, limit: float) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", f"{program}:{network}:{size}"]
    error = "error_peer" if program == "peer" else "error"
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {error: f"more than {limit:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {error: last[:200]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def by_slim(network: str, size: int) -> dict[str, Any]:
    """The columns of slim."""
    from slim import slim

    model, example = built(network), example_of(network, size)
    result = slim(model, example, RATIO, "l1", align=ALIGN)
    report = result.report
    return {
        **checked(network, model, result, Inputs.of(example)),
        "parameters": report.parameters[0],
        "removed": round(1 - report.parameters[1] / report.parameters[0], 4),
        "seconds": round(report.seconds["trace, plan and cut"], 3),
        "seconds_proof": round(report.seconds["proof"], 3),
        "own_class": str(type(result.model) is type(model)),
        "difference": float(f"{report.difference:.1e}"),
        "limits": "; ".join(report.limits),
        "not_followed": len(report.not_followed),
        "unfolded": len(report.unfolded),
    }


def measure_again(rows: dict[str, Row], limit: float) -> None:
    """The seconds of both programs, one directly after the other, of networks that lack the peer's."""
    for network, row in rows.items():
        if row.removed is not None and row.removed_peer is not None and row.seconds_peer is None:
            found = _in_a_process("time", network, row.size, limit)
            found |= _in_a_process("peer", network, row.size, limit)
            if "seconds" in found and "seconds_peer" in found:
                both = {name: found[name] for name in ("seconds", "seconds_proof", "seconds_peer")}
                rows[network] = replace(row, **both)
                print(network, both, flush=True)
                write_rows(TABLE, list(rows.values()))


def by_time(network: str, size: int) -> dict[str, Any]:
    """The seconds of slim alone."""
    from slim import slim

    report = slim(built(network), example_of(network, size), RATIO, "l1", align=ALIGN).report
    return {
        "seconds": round(report.seconds["trace, plan and cut"], 3),
        "seconds_proof": round(report.seconds["proof"], 3),
    }


def checked(network: str, model: nn.Module, result: SlimResult, inputs: Inputs) -> dict[str, Any]:
    """The columns of further checks of a result."""
    from slim import apply_plan, load, slim

    fresh = apply_plan(built(network), Plan.from_json(json.loads(json.dumps(result.plan.to_json()))))
    load(fresh, result.model.state_dict())
    given = inputs.repeated(2).random()
    with torch.no_grad():
        one, other = (tensors_in(given(each.eval())) for each in (fresh, result.model))
    same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    dropped = slim(model, inputs, RATIO, "l1", align=ALIGN, folding="off", verify="quick")
    try:
        found = independent_difference(built(network), dropped.model, dropped.plan.kept, given)
        independent = f"{found:.1e}"
    except UnmatchedError:
        independent = "-"
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx = f"{onnx_difference(result.model, inputs.random(), f'{folder}/network.onnx'):.1e}"
    except Exception as error:  # noqa: BLE001 - it is others' code
        onnx = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    return {"independent": independent, "plan": str(same), "onnx": onnx}


def by_peer(network: str, size: int) -> dict[str, Any]:
    """The columns of Torch-Pruning."""
    from benchmarks.peer import network_pruner, package

    model, example = built(network), example_of(network, size)
    before = sum(parameter.numel() for parameter in model.parameters())
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    package()  # its import is not timed
    start = time.perf_counter()
    network_pruner(model, example, RATIO, ALIGN, [last]).step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        Inputs.of(example)(model)
    after = sum(parameter.numel() for parameter in model.parameters())
    return {"removed_peer": round(1 - after / before, 4), "seconds_peer": round(seconds, 3)}


def built(network: str) -> nn.Module:
    """A network with random weights and norms spread out, in evaluation mode; always the same."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    package, name = network.split("/", 1)
    model = _MAKERS[package](name).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for own in ("weight", "running_var", "bias", "running_mean"):
                tensor = getattr(module, own, None)
                if isinstance(tensor, Tensor) and tensor.ndim == 1 and tensor.is_floating_point():
                    low, high = (0.5, 1.5) if own in ("weight", "running_var") else (-0.2, 0.2)
                    tensor.uniform_(low, high, generator=generator)
    return model


def example_of(network: str, size: int) -> Any:
    """An input of the network, as its users give it."""
    if network.startswith("transformers/"):
        if network.split("/")[1] in ("Bert", "DistilBert", "GPT2"):
            return {"input_ids": torch.arange(24).view(1, 24)}
        return {"pixel_values": torch.rand(1, 3, size, size)}
    return torch.rand(1, 3, size, size)


def _torchvision(name: str) -> nn.Module:
    import torchvision

    found: nn.Module = getattr(torchvision.models, name)(weights=None)
    return found


def _timm(name: str) -> nn.Module:
    import timm

    found: nn.Module = timm.create_model(name)
    return found


def _ultralytics(name: str) -> nn.Module:
    import ultralytics

    found: nn.Module = ultralytics.YOLO(f"{name}.yaml").model
    return found


def _smp(name: str) -> nn.Module:
    import segmentation_models_pytorch

    kind, encoder = name.split("/")
    found: nn.Module = getattr(segmentation_models_pytorch, kind)(encoder, encoder_weights=None)
    return found


def _pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    found: nn.Module = get_model(name, pretrained=False)
    return found


def _transformers(name: str) -> nn.Module:
    import transformers

    small: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "n_layer": 3,
    }
    small |= {"dim": 96, "hidden_dim": 192, "n_layers": 3, "n_embd": 96, "vocab_size": 500, "image_size": 64}
    config = getattr(transformers, f"{name}Config")()
    if name in ("ViT", "DeiT", "Dinov2", "Bert", "DistilBert", "GPT2"):
        for key, value in small.items():
            if hasattr(config, key):
                setattr(config, key, value)
    config.use_cache = False
    found: nn.Module = getattr(transformers, f"{name}Model")(config)
    return found


_MAKERS: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "ultralytics": _ultralytics,
    "smp": _smp,
    "pytorchcv": _pytorchcv,
    "transformers": _transformers,
}


def _summary(rows: Sequence[Row]) -> None:
    done = [row for row in rows if not row.error]
    both = [row for row in done if not row.error_peer]
    failed = sum(bool(row.error_peer) for row in rows)
    print(f"{len(rows)} networks: slim fails on {len(rows) - len(done)}, the peer on {failed}")
    few = [sum(share < 0.15 for share in shares) for shares in zip(*map(_shares, both), strict=True)]
    print(f"under 15 % removed, of {len(both)} that both prune (slim, the peer): {few}")
    print(f"another class: {sum(row.own_class != 'True' for row in done)}")
    less = [row.network for row in both if _shares(row)[0] < 0.95 * _shares(row)[1]]
    print(f"less than 95 % of the peer's reduction: {len(less)}: {', '.join(less)}")
    ratios = [row.seconds / row.seconds_peer for row in both if row.seconds and row.seconds_peer]
    if ratios:
        print(f"seconds over the peer's, median: {statistics.median(ratios):.2f}")


def _shares(row: Row) -> tuple[float, float]:
    return row.removed or 0.0, row.removed_peer or 0.0


if __name__ == "__main__":
    main()
