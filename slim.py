"""Prune any PyTorch network: one call, and a plan that narrows a freshly built network.

    import torch
    from slim import Plan, apply_plan, load, slim

    result = slim(model, torch.zeros(1, 3, 224, 224), ratio=0.5, score="l1", align=8)
    print(result.report); result.page("slim.html")  # layers, sizes, unsupported operations
    fine_tune(result.model)
    torch.save({"plan": result.plan.to_json(), "model": result.model.state_dict()}, "slim.pt")

    saved = torch.load("slim.pt", weights_only=True)
    model = apply_plan(MyNetwork(), Plan.from_json(saved["plan"]))
    load(model, saved["model"])

score       "gamma" (batch-norm scale, after training with `gamma_penalty`), "l1", "l2", "fpgm", "random",
            "group" (filters, gammas and the weights that read a channel together), products such as
            "gamma_x_l1", or a scorer of utils.pruning.scores (`taylor_scores`)
scheme      "uniform": each group of layers that must have one width loses `ratio`; "global": one threshold;
            "guarded": one threshold below the highest score of every layer, so that none is emptied
scope       "backbone": prune this part only; layers that read it are narrowed too (interface="follow"), or
            its outputs keep their width ("keep")
exclude     names or types of modules to keep, such as ["head", nn.ConvTranspose2d]
config      [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["features.0.0"]}]
example     a tensor, a tuple of arguments of forward or a dict of keyword arguments; values   fixed ones
verify      "full": batches of 1, 2 and 3, three sizes, a training step; "quick": batches of 1 and 2
max_macs, max_params, max_ms   instead of `ratio` a limit such as "40%"; max_ms is measured (runtime, threads)
loss        loss(model), for the score "taylor"; recalibrate   batches for the batch norms of the result
iterative, tune   rounds, with tune(model) after each; rules   for operations and modules not known here
norms       "approximate": layer norms may lose channels; the report says what that costs
folding     "interior": constants of removed channels move into biases and means; "off": they are dropped

With a teacher: `taught_loss(student(images), teacher(images), targets, KLSoftLoss(5))`, lists of heads.
The network runs once on the example, and every operation is followed; channels of unsupported operations are
kept, and the report lists them. Every result is verified: it computes what the network computes with the
removed channels at zero, after `folding`. It is a module of the given class with its code: attributes that
hold numbers of channels are set, and channels whose number is written in the code are kept.
"""

from utils.frontends.module.inputs import load
from utils.frontends.module.penalty import gamma_penalty
from utils.frontends.module.result import SlimReport, SlimResult
from utils.frontends.module.slim import slim
from utils.frontends.module.subject import Plan, apply_plan
from utils.pruning.selection import ChannelSelection
from utils.pruning.soft_loss import KLSoftLoss, taught_loss

__all__ = [
    "ChannelSelection", "KLSoftLoss", "Plan", "SlimReport", "SlimResult", "apply_plan", "gamma_penalty",
    "load", "slim", "taught_loss",
]  # fmt: skip
