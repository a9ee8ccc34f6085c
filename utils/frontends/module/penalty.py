"""The sparsity penalty for the training of any network."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.policies import candidate_channels
from ...pruning.scores import gamma_scores
from ...pruning.sparsity import GammaPenalty
from .inputs import unwrapped
from .run import Rule
from .slim import Parts, words
from .subject import ModuleSubject


def gamma_penalty(
    model: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    s: float,
    scope: str | Sequence[str] | None = None,
    values: Mapping[str, Any] | None = None,
    rules: Mapping[Any, Rule] | None = None,
) -> GammaPenalty:
    """The sparsity penalty for training, on exactly the gammas that `slim(score="gamma")` scores.

    In every step, between `loss.backward()` and `optimizer.step()`: `penalty.add_to_gradients()`.

    Args:
        model: the network in training.
        example: (1, ...) an input, or several as `slim` takes them.
        s: weight of the penalty, 1e-4 .. 1e-3, not below 0.
        scope: names of the parts to prune; None for all.
        values: other arguments of `forward`, fixed.
        rules: as those of `slim`.
    """
    model = unwrapped(model)
    if not s >= 0:
        raise PruningError(f"s {s}", "out of range", "give a penalty weight of at least 0")
    subject = ModuleSubject.of(model, example, values, rules=rules)
    parts = Parts(model, list(subject.graph.layers))
    names = parts.layers if scope is None else parts.named(words(scope))
    channels = candidate_channels(subject.graph, gamma_scores(subject), "all")
    judged = {name: mask for name, mask in channels.items() if name in names}
    norms = {name: model.get_submodule(str(subject.graph.layers[name].norm)) for name in judged}
    return GammaPenalty(norms, s, judged)  # type: ignore[arg-type]  # batch norms of any dimension
