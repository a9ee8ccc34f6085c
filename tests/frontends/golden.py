"""What the published programs made of fixed weights, and how their networks are written down."""

from pathlib import Path

from utils.darknet.network import Network

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared/golden/pruning"
NETS = ("yolov3-hand", "yolov3-tiny-1cls")


def structure(network: Network) -> str:
    """Every section as a letter and its number: filters, reference, size."""
    show = {
        "convolutional": lambda s: f"c{s.filters}",
        "shortcut": lambda s: f"s{s.options['from']}",
        "route": lambda s: "r" + s.options["layers"].replace(" ", ""),
        "maxpool": lambda s: f"m{s.size}",
        "upsample": lambda s: "u",
        "yolo": lambda s: "y",
    }
    return " ".join(show[section.kind](section) for section in network.sections)
