"""slim.py: one call, a plan that narrows a fresh network, and errors that say what to do."""

import copy
import json
import re
import subprocess
import sys

import pytest
import torch

from slim import Plan, apply_plan, gamma_penalty, load, slim
from tests.frontends.networks import MIDDLES, SqueezeExcitation, network
from utils.errors import PruningError

EXAMPLE = torch.zeros(1, 3, 16, 16)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def widths(result) -> dict[str, int]:
    return {layer.name: layer.after for layer in result.report.layers}


@pytest.mark.parametrize("scheme", ["uniform", "global", "guarded"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_a_fresh_network_narrowed_by_the_plan_takes_the_pruned_state(middle, scheme):
    result = slim(network(middle), EXAMPLE, 0.5, scheme=scheme, align=1)
    plan = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    again = apply_plan(network(middle, seed=9), plan)
    load(again, {f"module.{name}": tensor for name, tensor in result.model.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(again.eval()(IMAGES), result.model(IMAGES))
    count = sum(parameter.numel() for parameter in again.parameters())
    assert count == result.report.parameters[1] < result.report.parameters[0]


@pytest.mark.parametrize("middle", ["inverted residuals", "half instance norm", "split sizes", "shuffles"])
def test_the_class_is_kept_also_where_the_code_counts_channels(middle):
    model = network(middle)
    assert type(slim(model, EXAMPLE).model) is type(model)


@pytest.mark.parametrize("align", [1, 4, 8])
def test_widths_are_multiples(align):
    result = slim(network("inverted residuals"), EXAMPLE, 0.6, align=align)
    assert all(layer.after % align == 0 or layer.after == layer.before for layer in result.report.layers)
    assert widths(result)["behind"] == {1: 7, 4: 8, 8: 8}[align]


def test_a_quick_check_is_one_too_and_its_seconds_are_told():
    quick = slim(network("inverted residuals"), EXAMPLE, verify="quick").report
    assert quick.difference <= 1e-12
    assert set(quick.seconds) == {"trace, plan and cut", "proof"}
    with pytest.raises(PruningError, match="verify 'never'"):
        slim(network("nothing"), EXAMPLE, verify="never")


def test_each_group_loses_its_share():
    model = network("inverted residuals")
    found = widths(slim(model, EXAMPLE, 0.25, align=1))
    assert found == {
        "stem.0": 12,
        "middle.0.branch.0": 24,
        "middle.0.branch.3": 24,
        "middle.0.branch.6": 12,
        "middle.1.branch.0": 24,
        "middle.1.branch.3": 24,
        "middle.1.branch.6": 12,
        "behind": 12,
        "head": 10,
    }


def test_a_part_is_pruned_and_the_rest_follows_or_keeps_what_it_reads():
    followed = widths(slim(network("nothing"), EXAMPLE, 0.5, scope="stem", align=1))
    assert followed == {"stem.0": 8, "behind": 16, "head": 10}
    kept = widths(slim(network("nothing"), EXAMPLE, 0.5, scope=["stem"], align=1, interface="keep"))
    assert kept == {"stem.0": 16, "behind": 16, "head": 10}
    inside = widths(
        slim(network("inverted residuals"), EXAMPLE, 0.5, scope="middle", align=1, interface="keep")
    )
    assert inside["middle.0.branch.0"] == 16
    assert inside["stem.0"] == inside["middle.1.branch.6"] == 16


@pytest.mark.parametrize("exclude", ["stem.0", "stem", torch.nn.Conv2d])
def test_what_is_excluded_stays(exclude):
    assert widths(slim(network("nothing"), EXAMPLE, 0.5, exclude=[exclude], align=1))["stem.0"] == 16


def test_config_lists():
    config = [
        {"sparsity": 0.5, "op_types": ["Conv2d"]},
        {"sparsity": 0.25, "op_names": ["behind"]},
        {"exclude": True, "op_names": ["stem.0"]},
    ]
    assert widths(slim(network("nothing"), EXAMPLE, config=config, align=1)) == {
        "stem.0": 16,
        "behind": 12,
        "head": 10,
    }
    by_type = [{"sparsity": 0.5, "op_types": [SqueezeExcitation]}]
    found = widths(slim(network("squeeze and excitation"), EXAMPLE, config=by_type, align=1))
    assert found["middle.squeeze"] == 2
    assert found["behind"] == 16


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"ratio": 1.0}, "ratio 1.0: invalid value; give a number from 0 to below 1"),
        ({"scope": "back"}, "'back': is not a layer and contains none; the layers are stem.0, behind, head"),
        ({"exclude": ["nix"]}, "'nix': is not a layer and contains none"),
        ({"score": "gama"}, "score gama: unknown score 'gama'; use gamma, l1"),
        ({"config": [{"sparsity": 2, "op_types": ["Conv2d"]}]}, "give a sparsity from 0 to below 1"),
        ({"config": [{"sparsty": 0.5}]}, "unknown key sparsty; use sparsity, ratio, exclude, op_types"),
        ({"config": [{"exclude": True}]}, "excludes nothing by name; give op_names or op_types"),
        (
            {"config": [{"exclude": True, "sparsity": 0.5, "op_names": ["stem"]}]},
            "has both a sparsity and exclude",
        ),
        ({"config": {"sparsity": 0.5}}, "not a dict; give a list of dicts"),
        (
            {"config": [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]},
            "matches no layer; the layers are stem.0,",
        ),
        (
            {
                "scheme": "global",
                "config": [{"sparsity": s, "op_names": [n]} for s, n in ((0.5, "stem"), (0.1, "behind"))],
            },
            "takes one ratio, but config has 0.1, 0.5",
        ),
        ({"ratio": "0.5"}, "ratio '0.5': invalid value"),
        ({"scope": ""}, "'': is not a layer and contains none"),
        ({"scheme": "globl"}, "scheme 'globl': invalid value; use uniform, global, guarded"),
        ({"interface": "kep"}, "interface 'kep': invalid value; use follow, keep"),
        ({"folding": "on"}, "folding 'on': invalid value; use off, interior, borders"),
        ({"align": 0}, "align 0: invalid value; give a whole number from 1"),
        ({"least": 1.5}, "min_channels 1.5: invalid value; give a whole number"),
        ({"layer_keep": 2}, "layer_keep 2: invalid value; give a number from 0 to 1"),
        ({"values": {"spare": 1}}, "TypeError: Network.forward() got an unexpected keyword argument 'spare'"),
    ],
)
def test_invalid_options_are_refused(options, fact):
    with pytest.raises(PruningError) as caught:
        slim(network("nothing"), EXAMPLE, **options)
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("example", "fact"),
    [
        (None, "example_inputs: got NoneType, expected one tensor"),
        ({"no": EXAMPLE}, "does not run on a batch of shape 2x3x16x16 (TypeError"),
        ((EXAMPLE, EXAMPLE), "does not run on a batch of shape 2x3x16x16, 2x3x16x16 (TypeError"),
        (torch.tensor(1.0), "example_inputs: shape () has no batch; give a batch of one"),
        (torch.zeros(0, 3, 16, 16), "example_inputs: shape (0, 3, 16, 16) has no batch"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float64), "does not run on a batch of shape 2x3x16x16"),
    ],
)
def test_invalid_examples_are_refused(example, fact):
    with pytest.raises(PruningError) as caught:
        slim(network("nothing"), example)
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (torch.nn.ReLU(), "ReLU: runs no convolution or linear layer"),
        (torch.nn.Conv2d, "not a torch.nn.Module instance"),
    ],
)
def test_what_holds_no_layers_is_refused(model, fact):
    with pytest.raises(PruningError, match=fact):
        slim(model, EXAMPLE)


def test_one_name_or_type_may_be_excluded_without_a_list():
    for exclude in ("stem", torch.nn.Conv2d):
        assert widths(slim(network("nothing"), EXAMPLE, 0.5, exclude=exclude, align=1))["stem.0"] == 16


def test_one_threshold_leaves_what_is_all_pinned():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Softmax(1)).eval()
    result = slim(model, EXAMPLE, 0.5, scheme="global")
    assert result.report.not_followed == ("Softmax 1 (_softmax) mixes channels",)
    assert widths(result) == {"0": 8}


def test_one_threshold_takes_its_share_from_config():
    config = [{"sparsity": 0.75, "op_names": ["behind"]}]
    options = {"scheme": "global", "score": "random", "align": 1, "layer_keep": 0.0}
    found = widths(slim(network("nothing"), EXAMPLE, config=config, **options))
    assert found == {"stem.0": 16, "behind": 3, "head": 10}


def test_a_plan_of_another_network_is_refused():
    plan = slim(network("inverted residuals"), EXAMPLE).plan
    with pytest.raises(PruningError, match=r"middle\.0\.branch\.0 has no such layer"):
        apply_plan(network("nothing"), plan)
    with pytest.raises(PruningError, match="plan: not a valid plan"):
        Plan.from_json({"kept": 1})
    with pytest.raises(PruningError, match="plan: not a valid plan"):
        Plan.from_json(plan.to_json() | {"input_type": "float99"})
    with pytest.raises(PruningError, match="narrow a fresh network with its plan first"):
        load(network("nothing"), slim(network("nothing"), EXAMPLE).model.state_dict())


def test_a_plan_without_a_type_of_input_is_of_float32():
    plain = slim(network("nothing"), EXAMPLE).plan.to_json()
    assert plain.pop("input_type") == "float32"
    assert Plan.from_json(plain).input_type == "float32"


def test_pruning_leaves_the_compiler_of_torch_alone(root):
    code = "import sys, torch; from slim import slim; layer = torch.nn.Conv2d(3, 8, 1); "
    code += "slim(torch.nn.Sequential(layer, torch.nn.Conv2d(8, 2, 1)), torch.zeros(1, 3, 4, 4)); "
    code += "assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_sparse_training_meets_the_gammas_that_pruning_judges():
    model = network("inverted residuals").train()
    penalty = gamma_penalty(model, EXAMPLE, s=0.01)
    model(IMAGES).sum().backward()
    before = {name: norm.weight.grad.clone() for name, norm in penalty.norms.items()}
    penalty.add_to_gradients()
    assert set(penalty.norms) == {"stem.0", *(f"middle.{i}.branch.{j}" for i in (0, 1) for j in (0, 3, 6))}
    for name, norm in penalty.norms.items():
        assert torch.allclose(norm.weight.grad - before[name], 0.01 * norm.weight.sign())


def test_the_given_network_is_left_as_it_is():
    model = network("half instance norm")
    before = copy.deepcopy(model.state_dict())
    slim(model, EXAMPLE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = network("nothing"), torch.nn.Linear(10, 2)

    def forward(self, x: torch.Tensor, spare: bool = False) -> torch.Tensor:
        return self.spare(self.body(x)) if spare else self.body(x)


def test_layers_that_do_not_run_are_named():
    found = slim(TwoHeads().eval(), EXAMPLE, values={"spare": False}).report.not_followed
    assert found == (
        "spare (Linear) does not run on the example, so it is not pruned; "
        "if training runs it, exclude the layers that it reads",
    )
    assert slim(TwoHeads().eval(), EXAMPLE, values={"spare": True}).report.not_followed == ()


def test_the_report_says_what_happened():
    text = str(slim(network("one group"), EXAMPLE, align=1).report)
    assert "behind     16 -> 8     Conv2d" in text
    assert "not followed: GroupNorm middle (native_group_norm) computes statistics over channels" in text


def test_the_example_of_the_readme_runs_and_says_what_is_printed_there(root, tmp_path, monkeypatch, capsys):
    text = (root / "README.md").read_text()
    section = text[text.index("## Quick start: any PyTorch network") :]
    code, report = re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("from netslim", "from slim"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert (tmp_path / "slim.pt").exists()
    assert all(line in printed for line in report.splitlines() if "zeroed" not in line)


def test_a_score_that_judges_nothing_is_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
    with pytest.raises(PruningError, match="score gamma: no layer is followed by a batch norm; use l1"):
        slim(model, EXAMPLE, score="gamma")


class Root(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 10).sqrt()


def test_a_network_that_outputs_nan_is_not_blamed_on_pruning():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), Root(), torch.nn.Conv2d(8, 8, 3))
    with pytest.raises(PruningError, match="Sequential: the outputs for a random input are not finite"):
        slim(model.eval(), EXAMPLE)


class Module(torch.nn.Module):
    """A network whose own part is called as parallel wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = network("nothing")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)


def test_a_part_called_module_is_no_wrapper():
    result = slim(Module().eval(), EXAMPLE, align=1)
    again = apply_plan(Module().eval(), result.plan)
    load(again, result.model.state_dict())
    assert torch.equal(again(EXAMPLE), result.model(EXAMPLE))


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (lambda model: load(model, "x.pt"), "state: is a str; give what state_dict"),
        (lambda model: apply_plan(model, {}), "plan: is a dict; give Plan.from_json"),
        (lambda model: gamma_penalty(model, EXAMPLE, -1.0), "s -1.0: out of range; give a penalty weight"),
    ],
)
def test_what_is_no_state_plan_or_weight_is_refused(call, fact):
    with pytest.raises(PruningError) as caught:
        call(network("nothing"))
    assert fact in str(caught.value)
