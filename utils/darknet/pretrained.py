"""Weights to start training from: with another number of classes, all but the heads are loaded.

Invariant: a section is loaded completely or not at all; a file of another network is refused.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, is_checkpoint, load_weights, read_checkpoint
from .edit import with_classes
from .heads import Head
from .model import Darknet, section_index
from .network import Network
from .weights import read_header

logger = logging.getLogger(__name__)

# Of the published COCO and VOC models, tried when a .weights file does not fit the cfg.
PUBLISHED_CLASS_COUNTS = (80, 20)


@dataclass(frozen=True)
class Pretrained:
    """Result of `load_pretrained`.

    Attributes:
        loaded: number of sections whose weights were read.
        replaced_heads: heads (section numbers) that are re-initialized because the file has other classes.
        classes: class count of the file where it differs from the model's, else None.
    """

    loaded: int
    replaced_heads: tuple[int, ...] = ()
    classes: int | None = None


def load_pretrained(model: Darknet, path: str | Path, weights_classes: int | None = None) -> Pretrained:
    """Load weights to fine-tune; if the file has other classes, all but the heads.

    Args:
        weights_classes: class count of a .weights file that fits neither the model nor 80 or 20 classes.

    Raises:
        WeightsError: the file belongs to another network whatever the class count.
    """
    path = Path(path)
    classes = _class_count(model, path, weights_classes)
    if classes is None:
        load_weights(model, path)
        return Pretrained(len(model.network))
    donor = Darknet(with_classes(model.network, classes))
    load_weights(donor, path)
    fresh = {model.network.sources(head)[0] for head in model.network.heads}
    state = model.state_dict()
    for name, tensor in donor.state_dict().items():
        if section_index(name) not in fresh:
            state[name].copy_(tensor)
    ours = " and ".join(sorted({str(spec.classes) for spec in model.head_specs}))
    heads = ", ".join(f"#{head}" for head in model.network.heads)
    fact = "%s has %d classes, the network %s: its heads (%s) are re-initialized"
    logger.info(fact, path, classes, ours, heads)
    return Pretrained(len(model.network) - len(fresh), model.network.heads, classes)


def _class_count(model: Darknet, path: Path, weights_classes: int | None) -> int | None:
    """Class count of the file if it differs from the model's; None to load the file unchanged."""
    if not model.network.heads:
        return None
    own = {spec.classes for spec in model.head_specs}
    if is_checkpoint(path):
        found = _classes_of_checkpoint(model.network, read_checkpoint(path))
        return None if found is None or own == {found} else found
    _, _, floats = read_header(path)
    if floats == sum(model.network.weight_counts):
        return None
    for classes in filter(None, (weights_classes, *PUBLISHED_CLASS_COUNTS)):
        if sum(with_classes(model.network, classes).weight_counts) == floats:
            return classes
    return None


def _classes_of_checkpoint(network: Network, checkpoint: Checkpoint) -> int | None:
    if checkpoint.cfg is not None:
        theirs = Network.from_text(checkpoint.cfg, "cfg of the checkpoint")
        counts = {section.classes for section in theirs.sections if isinstance(section, Head)}
        return counts.pop() if len(counts) == 1 else None
    head = network.heads[0]
    section = network[head]
    weight = checkpoint.state.get(f"layers.{network.sources(head)[0]}.conv.weight")
    assert isinstance(section, Head)
    others = section.width - section.classes
    if weight is None or weight.shape[0] % len(section.mask) or weight.shape[0] <= others * len(section.mask):
        return None
    return weight.shape[0] // len(section.mask) - others
