"""Prune any PyTorch network: one call, and a plan that narrows a freshly built one.

    import torch
    from slim import Plan, apply_plan, load, slim

    result = slim(model, torch.zeros(1, 3, 224, 224), ratio=0.5, score="l1", align=8)
    print(result.report)                          # layers, sizes, what could not be followed
    fine_tune(result.model)
    torch.save({"plan": result.plan.to_json(), "model": result.model.state_dict()}, "slim.pt")

    saved = torch.load("slim.pt", weights_only=True)
    model = apply_plan(MyNetwork(), Plan.from_json(saved["plan"]))
    load(model, saved["model"])

score       "gamma" (batch-norm scale, after training with `gamma_penalty`), "l1", "l2", "fpgm", "random",
            products such as "gamma_x_l1", or a scorer of utils.pruning.scores (`taylor_scores`)
scheme      "uniform": each group of layers that must have one width loses `ratio`; "global": one threshold;
            "guarded": that, but below the highest score of every layer, so that none is emptied
scope       "backbone": prune this part alone; interface="follow" narrows what reads it, "keep" leaves it
exclude     names or types of modules that stay, such as ["head", nn.ConvTranspose2d]
config      [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["features.0.0"]}];
            "ratio" does for "sparsity", and of several entries for a layer the last one counts
values      other arguments of forward, such as {"inference": True}, fixed from then on
folding     "interior": what a removed channel puts out without its weights moves into the biases and means
            behind; "off": it is lost, and no other number of the network changes

A teacher of any architecture helps fine-tuning: `taught_loss(student(images), teacher(images), targets,
KLSoftLoss(5))`, all of them lists with an entry for each head.

Layers are traced by torch.fx, or by torch.export where that cannot; what the rules cannot follow stays as it
is and is listed. Every result is proven: it computes what the network does with the removed channels at zero,
after their constants have been folded as `folding` says. It is a module of the class that was given; where
its code counts channels, it is the traced network, and `report.limits` says what that cannot do. Of a
parallel wrapper, what it wraps is pruned.
"""

from utils.frontends.fx.plan import Plan, apply_plan, load
from utils.frontends.fx.slim import SlimReport, SlimResult, gamma_penalty, slim
from utils.pruning.layers import ChannelSelection
from utils.pruning.soft_loss import KLSoftLoss, taught_loss

__all__ = [
    "ChannelSelection", "KLSoftLoss", "Plan", "SlimReport", "SlimResult", "apply_plan", "gamma_penalty",
    "load", "slim", "taught_loss",
]  # fmt: skip
