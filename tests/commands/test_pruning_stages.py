"""What a user should know of a pruning is told with the sections as the cfg numbers them."""

import pytest

from tests.frontends.feature_cfgs import CFGS, randomised
from utils.commands.prune.run import pruning_notes
from utils.darknet.sections import Convolutional
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune

(DEPTHWISE,) = [path for path in CFGS if path.stem == "depthwise"]


@pytest.mark.parametrize("folding", ["interior", "borders"])
def test_grouped_layers_that_get_no_carrier_are_named(folding):
    subject = DarknetSubject.of(randomised(DEPTHWISE, 0))
    result = prune(subject, [slim_threshold(0.7, 0.1)], folding=folding)
    told = [
        note for note in pruning_notes(result) if note.startswith("not exact at image borders in sections ")
    ]
    assert bool(told) == (folding == "borders")
    for note in told:
        named = note.split("sections ")[1].split(": ")[0].split(", ")
        assert named
        assert named == [f"{index} (grouped)" for index in (int(name.split()[0]) for name in named)]
        for name in named:
            section = subject.network[int(name.split()[0])]
            assert isinstance(section, Convolutional)
            assert section.groups > 1
