"""What the equality ledger compares, and that it refuses what differs."""

from copy import deepcopy

import pytest
import torch

from tests.darknet.references import randomised
from utils.commands.prune import ledger
from utils.commands.prune.ledger import compare_files, compare_in_memory
from utils.darknet.model import Darknet
from utils.errors import PruningError
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune


@pytest.fixture
def result(root):
    model = randomised(Darknet.from_cfg(root / "tests/cfgs/residual.cfg")).eval()
    return prune(DarknetSubject.of(model), [slim_threshold(0.5, 0.1)])


def test_the_compact_network_is_run_once_and_a_changed_one_anew(result, monkeypatch):
    run, seen = ledger.outputs_in_float64, []
    monkeypatch.setattr(
        ledger, "outputs_in_float64", lambda model, image: seen.append(model) or run(model, image)
    )
    compact = result.compact.model
    entries = compare_in_memory(result)
    recalibrated, reloaded = deepcopy(compact), deepcopy(compact)
    with torch.no_grad():
        recalibrated.layers[0].norm.running_mean += 0.1
    assert compare_files(entries, compact, reloaded, full=False)[0].difference == 0
    assert seen.count(compact) == 1
    assert compare_files(entries, recalibrated, deepcopy(recalibrated), full=False)[0].difference == 0
    assert recalibrated in seen


def test_files_that_hold_something_else_are_refused(result):
    entries = compare_in_memory(result)
    reloaded = deepcopy(result.compact.model)
    with torch.no_grad():
        reloaded.layers[0].norm.running_mean += 0.1
    with pytest.raises(PruningError, match="read back"):
        compare_files(entries, result.compact.model, reloaded, full=False)
