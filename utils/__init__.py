"""Prune neural networks: Darknet detectors, and any other PyTorch network.

Any network, with numpy and torch alone (see `help` of `slim` for the options):

    from netslim import Plan, apply_plan, load, slim

    result = slim(model, torch.zeros(1, 3, 224, 224), ratio=0.5, score="l1", align=8)
    torch.save({"plan": result.plan.to_json(), "model": result.model.state_dict()}, "slim.pt")

A Darknet detector, with the extra "darknet":

    from netslim import Darknet, load_weights

    model = Darknet.from_cfg("cfg/yolov3.cfg")
    load_weights(model, "weights/yolov3.weights")

The commands are functions here too: they take frozen options, return results and print nothing. In a checkout
the package is the folder `utils`, for its scripts; a process uses one of the two names. Importing the package
imports nothing else and changes nothing in the process; each name is imported on first use.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commands.detect.run import DetectionOptions, DetectionResult, detect
    from .commands.evaluate.run import EvaluationOptions, EvaluationResult, evaluate
    from .commands.export.run import ExportOptions, ExportResult, export
    from .commands.prune.options import PruningOptions
    from .commands.prune.run import PruningOutcome, prune
    from .commands.train.options import TrainOptions
    from .commands.train.run import TrainingResult, train
    from .darknet.checkpoint import convert, load_weights, save_weights
    from .darknet.model import Darknet
    from .frontends.module.inputs import load
    from .frontends.module.ladder import SlimLadder, ladder
    from .frontends.module.penalty import gamma_penalty
    from .frontends.module.result import SlimReport, SlimResult
    from .frontends.module.slim import SlimOptions, slim
    from .frontends.module.subject import Plan, apply_plan
    from .pruning.selection import ChannelSelection
    from .pruning.soft_loss import KLSoftLoss, taught_loss

__version__ = "0.2.0"
__netslim__ = True  # what a second copy is recognised by
__all__ = [
    "ChannelSelection", "Darknet", "DetectionOptions", "DetectionResult", "EvaluationOptions",
    "EvaluationResult", "ExportOptions", "ExportResult", "KLSoftLoss", "Plan", "PruningOptions",
    "PruningOutcome", "SlimLadder", "SlimOptions", "SlimReport", "SlimResult", "TrainOptions",
    "TrainingResult", "apply_plan", "convert", "detect", "evaluate", "export", "gamma_penalty", "ladder",
    "load", "load_weights", "prune", "save_weights", "slim", "taught_loss", "train",
]  # fmt: skip

# Module -> the public names that it defines. No name is that of a module or folder beside this file, which
# would replace it when imported.
_HOMES = {
    "commands.detect.run": ("DetectionOptions", "DetectionResult", "detect"),
    "commands.evaluate.run": ("EvaluationOptions", "EvaluationResult", "evaluate"),
    "commands.export.run": ("ExportOptions", "ExportResult", "export"),
    "commands.prune.options": ("PruningOptions",),
    "commands.prune.run": ("PruningOutcome", "prune"),
    "commands.train.options": ("TrainOptions",),
    "commands.train.run": ("TrainingResult", "train"),
    "darknet.checkpoint": ("convert", "load_weights", "save_weights"),
    "darknet.model": ("Darknet",),
    "frontends.module.inputs": ("load",),
    "frontends.module.ladder": ("SlimLadder", "ladder"),
    "frontends.module.penalty": ("gamma_penalty",),
    "frontends.module.subject": ("Plan", "apply_plan"),
    "frontends.module.result": ("SlimReport", "SlimResult"),
    "frontends.module.slim": ("SlimOptions", "slim"),
    "pruning.selection": ("ChannelSelection",),
    "pruning.soft_loss": ("KLSoftLoss", "taught_loss"),
}


# Two copies in one process would have two of each class, and neither would know the other's.
for _name, _module in list(sys.modules.items()):
    _contents = getattr(_module, "__dict__", None)  # what is in sys.modules need not be a module
    if _name != __name__ and isinstance(_contents, dict) and _contents.get("__netslim__") is True:
        _fact = f"already imported as {_name!r} from {_contents.get('__file__')}"
        raise ImportError(f"{__name__}: {_fact}; use one of the two names in a process")

if not TYPE_CHECKING:  # or every name would count as known

    def __getattr__(name: str) -> Any:
        """Import a public name on first use."""
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f".{home}", __name__), name)
        except ImportError as error:
            from .extras import explained

            explanation = explained(error)
            if explanation is None:
                raise
            raise explanation from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, imported or not, beside what the module holds."""
    return sorted({*globals(), *__all__})
