"""The equality ledger: equal passes, a fault anywhere is refused, what cannot be compared says why."""

from dataclasses import replace

import pytest
import torch

from tests.darknet.references import randomised as with_random_numbers
from tests.frontends.feature_cfgs import randomised
from utils.commands.prune.ledger import compare_files, compare_in_memory
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.weights import read_weights
from utils.errors import PruningError
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune


@pytest.fixture
def result(root):
    return prune(
        DarknetSubject.of(randomised(root / "tests/cfgs/residual.cfg", 0).float()), [slim_threshold(0.5, 0.1)]
    )


@pytest.fixture
def reloaded(result, tmp_path):
    result.compact.save(tmp_path / "x.cfg", tmp_path / "x.weights")
    model = Darknet.from_cfg(tmp_path / "x.cfg")
    read_weights(tmp_path / "x.weights", model)
    return model.eval()


def test_what_is_equal_passes_every_line(result, reloaded):
    ledger = compare_in_memory(result)
    checks = {check.name: check for check in compare_files(ledger, result.compact.model, reloaded, full=True)}
    assert set(checks) == {"compact / .weights read back", "compact / OpenCV", "compact / ONNX"}
    assert all(check.passed and check.difference is not None for check in checks.values())
    assert checks["compact / .weights read back"].difference == 0
    quick = compare_files(ledger, result.compact.model, reloaded, full=False)
    assert [check.name for check in quick] == ["compact / .weights read back"]


CONVOLUTION = "[convolutional]\nbatch_normalize={}\nfilters={}\nsize=3\nstride=1\npad=1\nactivation={}\n"
SHORTCUT = CONVOLUTION.format(1, 14, "leaky") + "[shortcut]\nfrom=-2\nactivation=linear\n"


@pytest.mark.parametrize(
    ("batch_normalize", "activation", "behind"),
    [
        (0, "linear", ""), (0, "leaky", ""), (1, "linear", ""), (1, "leaky", ""), (1, "logistic", ""),
        (0, "linear", "[upsample]\nstride=2\n"), (0, "linear", SHORTCUT),
    ],
)  # fmt: skip
def test_opencv_is_asked_for_what_enters_the_head(batch_normalize, activation, behind):
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + CONVOLUTION.format(1, 8, "leaky")
    text += CONVOLUTION.format(batch_normalize, 14, activation) + behind
    text += "[yolo]\nmask=0,1\nanchors=10,10, 20,20\nclasses=2\nnum=2\n"
    model = with_random_numbers(Darknet(Network.from_text(text, "heads"))).eval()
    result = prune(DarknetSubject.of(model), [slim_threshold(0.3, 0.1)])
    ledger = compare_in_memory(result)
    opencv = compare_files(ledger, result.compact.model, result.compact.model, full=True)[1]
    assert opencv.difference is not None
    assert opencv.passed


def test_a_compact_network_that_computes_something_else_is_refused(result):
    broken = result.compact.copied()
    broken.model.layers[-2].conv.bias.data[0] += 1e-4
    with pytest.raises(PruningError, match=r"zeroed / compact: .*computes different outputs"):
        compare_in_memory(replace(result, compact=broken))


def test_weights_that_are_no_numbers_are_told_from_a_fault(root):
    model = randomised(root / "tests/cfgs/residual.cfg", 0).float()
    model.layers[1].norm.weight.data[0] = float("nan")
    with pytest.raises(PruningError, match=r"outputs contain NaN or inf; doctor\.py lists"):
        compare_in_memory(prune(DarknetSubject.of(model), [slim_threshold(0.5, 0.1)]))


def test_a_file_that_holds_something_else_is_refused(result, reloaded):
    ledger = compare_in_memory(result)
    reloaded.layers[0].conv.weight.data[0] += 1e-3
    with pytest.raises(PruningError, match=r"compact / \.weights read back: "):
        compare_files(ledger, result.compact.model, reloaded, full=False)


def test_boxes_that_overflow_leave_onnx_out_and_say_so(result, reloaded):
    for model in (result.compact.model, result.folded.model, reloaded):
        model.layers[-2].conv.bias.data += 200  # exp(200) is beyond float32
    ledger = compare_in_memory(result)
    assert all(torch.isfinite(head).all() for head in ledger.heads)
    checks = compare_files(ledger, result.compact.model, reloaded, full=True)
    onnx = next(check for check in checks if check.name == "compact / ONNX")
    assert onnx.difference is None
    assert "overflow" in onnx.note
