"""What folding computes on a device that knows less than a CPU."""

import torch

from utils.pruning.fold import _constant


class OnDevice(torch.Tensor):
    """A tensor of a device without float64, such as Apple's MPS, until it is moved to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = function.__name__
        assert name != "double", "this device has no float64"
        found = super().__torch_function__(function, types, args, kwargs or {})
        return found.as_subclass(torch.Tensor) if name == "cpu" else found


def test_constants_are_taken_in_float64_on_the_cpu_only():
    value = torch.tensor([[0.1, 0.2], [0.4, 0.8]])[..., None, None].expand(2, 2, 3, 3)
    live = torch.tensor([True, False])
    found, expected = (_constant(kind, live) for kind in (value.as_subclass(OnDevice), value))
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.carried, expected.carried)
    assert found.values.dtype == torch.float64
    assert found.is_uniform
