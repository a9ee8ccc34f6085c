"""Frozen sections of a cfg, and until when (backward_network, update_network in network.c).

    stopbackward=1    no gradient reaches this section or any before it; N > 1: before iteration N
    onlyforward=1     this section and what only it reads get no gradient through it
    dont_update=N     the weights of this section stay up to and including iteration N
    burnin_update=N   they stay before iteration N * [net] burn_in
    train_only_bn=1   the weights of this section and of all before it stay; batch-norm statistics update

Invariant: the frozen sections at a later iteration are a subset of those at an earlier one.
"""

from .cfg import Options
from .network import Network

NEVER = 1 << 31  # an iteration that no training reaches


def learns_from(network: Network) -> tuple[int, ...]:
    """For each section the first iteration (optimizer step, from 0) at which its weights learn, or NEVER.

    Raises:
        CfgError: one of the options is not a number.
    """
    burn_in = Options(network.raw[0], -1, network.source).integer("burn_in", 0)
    starts = []
    before = 0  # limit that later sections set for all before them
    for index in reversed(range(len(network))):
        options = _options(network, index)
        stop = options.integer("stopbackward", 0)
        before = max(before, NEVER if stop == 1 or options.flag("train_only_bn") else stop)
        update = options.integer("dont_update", 0)
        own = (
            NEVER if options.flag("onlyforward") else 0,
            update + 1 if update > 0 else 0,
            options.integer("burnin_update", 0) * burn_in,
        )
        starts.append(min(NEVER, max(before, *own)))
    return tuple(reversed(starts))


def detached(network: Network) -> frozenset[int]:
    """Sections through which no gradient passes back to what they read (`onlyforward`)."""
    return frozenset(i for i in range(len(network)) if _options(network, i).flag("onlyforward"))


def _options(network: Network, index: int) -> Options:
    return Options(network.raw[index + 1], index, network.source)
