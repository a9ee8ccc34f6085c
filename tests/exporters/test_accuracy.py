"""An exported file in the evaluator's terms."""

import numpy as np
import pytest
import torch

from tests.exporters.networks import SPECS, TwoHeads, small_job
from utils.commands.export.job import predictor
from utils.detection.boxes import suppress
from utils.detection.decode import decode_heads
from utils.exporters.parity import module_infer
from utils.runtimes.runtime import Images, Outputs


def test_suppression_finds_the_same_in_a_file_as_in_its_network() -> None:
    """Objectness times class decides, so 1 times the score does too."""
    model, images = TwoHeads().eval(), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        wanted = decode_heads(model(images), SPECS)
    found = predictor(module_infer(small_job(model).module))(images)
    for ours, theirs in zip(found, wanted, strict=True):
        expected = suppress(theirs, 0.2)
        assert len(expected) > 3
        torch.testing.assert_close(suppress(ours, 0.2), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("batch", "calls"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1])])
def test_a_file_gets_as_many_images_as_it_takes(batch: int | None, calls: list[int]) -> None:
    seen = []

    def infer(images: Images) -> Outputs:
        seen.append(len(images))
        value = images[:, :1, 0, 0]
        return [
            np.broadcast_to(value[:, None], (len(images), 3, 4)).copy(),
            np.ones((len(images), 3, 2), "f4"),
        ]

    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    found = predictor(infer, batch)(images)
    assert seen == calls
    assert found.shape == (5, 3, 7)
    assert found[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
