import pytest
import torch

from utils.darknet.model import Darknet
from utils.darknet.network import NEVER, Network, detached, learns_from
from utils.errors import CfgError

CONV = "[convolutional]\nfilters=2\n"


def network(*sections: str, net: str = "") -> Network:
    return Network.from_text(f"[net]\nwidth=4\nheight=4\nchannels=2\n{net}\n" + "\n".join(sections), "a.cfg")


@pytest.mark.parametrize(
    "option, expected",
    [
        ("stopbackward=1", (NEVER, NEVER, NEVER, 0)),  # itself and all before it
        ("stopbackward=800", (800, 800, 800, 0)),
        ("train_only_bn=1", (NEVER, NEVER, NEVER, 0)),
        ("dont_update=5", (0, 0, 6, 0)),  # `dont_update < iteration` updates
        ("burnin_update=3", (0, 0, 30, 0)),
        ("onlyforward=1", (0, 0, NEVER, 0)),
        ("stopbackward=0", (0, 0, 0, 0)),
    ],
)
def test_an_option_on_the_third_section(option, expected):
    assert learns_from(network(CONV, CONV, CONV + option, CONV, net="burn_in=10")) == expected


def test_the_longest_wait_counts():
    net = network(CONV + "dont_update=900", CONV, CONV + "stopbackward=800", CONV + "stopbackward=50")
    assert learns_from(net) == (901, 800, 800, 50)


def test_a_word_for_a_number_is_told_with_its_line():
    with pytest.raises(CfgError, match=r"a\.cfg:8: \[convolutional\] #0: stopbackward=x is not a whole"):
        learns_from(network(CONV + "stopbackward=x"))


def test_onlyforward_passes_no_gradient_in_training():
    net = network(CONV, CONV + "onlyforward=1", "[route]\nlayers=-1", "[shortcut]\nfrom=0", CONV)
    assert detached(net) == {1}
    model = Darknet(net).train()
    seen = {}
    for index in (0, 1, 4):
        model.layers[index].register_forward_hook(lambda m, i, out, index=index: seen.update({index: out}))
    model(torch.rand(1, 2, 4, 4))
    seen[4].sum().backward()
    assert model.layers[1].conv.weight.grad is None
    assert model.layers[0].conv.weight.grad is not None  # by the shortcut
