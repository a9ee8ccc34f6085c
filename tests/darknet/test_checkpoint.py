"""Checkpoints: what goes in comes out, foreign and hostile ones are refused, old ones are read."""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from tests.darknet.references import old_names, randomised
from utils.darknet.checkpoint import convert, load_weights, read_checkpoint, save_checkpoint, save_weights
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.weights import WeightsHeader, fields
from utils.errors import WeightsError

ROOT = Path(__file__).parents[2]
CFG = ROOT / "tests/cfgs/upsample.cfg"


def network(**changes: str) -> Network:
    """upsample.cfg with some text replaced."""
    text = CFG.read_text()
    for old, new in changes.items():
        text = text.replace(*new.split("->")) if "->" in new else text.replace(old, new)
    return Network.from_text(text, "new.cfg")


def same(first: Darknet, second: Darknet) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def model():
    model = randomised(Darknet.from_cfg(CFG))
    model.header = WeightsHeader(0, 2, 0, 4711)
    return model


@pytest.mark.parametrize("suffix", [".pt", ".weights", ".backup"])
def test_saved_and_loaded_it_is_equal(suffix, model, tmp_path):
    path = tmp_path / f"a{suffix}"
    save_weights(model, path)
    again = Darknet(model.network)
    load_weights(again, str(path))
    assert again.header == model.header
    for ours, theirs in zip(again.layers, model.layers, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(fields(ours), fields(theirs), strict=True))


def test_a_checkpoint_is_plain_data_with_cfg_and_training_state(model, tmp_path):
    path = tmp_path / "a.pt"
    training = {"epoch": 3, "best": 0.5, "optimizer": {"state": {0: torch.ones(2)}}, "history": [1.0, 2.0]}
    save_checkpoint(path, model, training)
    raw = torch.load(path, weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in raw["model"].values())
    checkpoint = read_checkpoint(path)
    assert checkpoint.cfg == model.network.to_cfg()
    assert checkpoint.header == model.header
    assert checkpoint.training["epoch"] == 3
    assert torch.equal(checkpoint.training["optimizer"]["state"][0], torch.ones(2))


def test_conversion_there_and_back_is_bitwise_equal(shared, tmp_path):
    for source in sorted(shared.glob("weights/*/*.weights")):
        original = tmp_path / source.name
        original.write_bytes(source.read_bytes())
        checkpoint = convert(source.with_suffix(".cfg"), original)
        assert checkpoint == original.with_suffix(".pt")
        original.unlink()
        assert convert(source.with_suffix(".cfg"), checkpoint) == original
        assert original.read_bytes() == source.read_bytes()


def test_the_users_convert_prints_where_to(model, tmp_path, capsys):
    save_weights(model, tmp_path / "a.pt")
    target = models.convert(str(CFG), str(tmp_path / "a.pt"), tmp_path / "sub" / "b.weights")
    assert capsys.readouterr().out == f"{target}\n"
    assert target == tmp_path / "sub" / "b.weights"
    assert target.is_file()


def test_from_models_import_star_gives_the_four_names():
    names: dict[str, object] = {}
    exec("from models import *", names)
    assert names.keys() - {"__builtins__"} == {"Darknet", "convert", "load_weights", "save_weights"}


def test_conversion_never_overwrites_its_input(model, tmp_path):
    save_weights(model, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(WeightsError, match="is the input itself"):
        convert(CFG, tmp_path / "a.pt", tmp_path / "sub" / ".." / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before


def test_conversion_keeps_a_checkpoint_to_resume_from(model, tmp_path, caplog):
    save_weights(model, tmp_path / "last.weights")
    save_checkpoint(tmp_path / "last.pt", model, {"epoch": 3})
    target = convert(CFG, tmp_path / "last.weights")
    (kept,) = tmp_path.glob("last.*-*.pt")
    assert read_checkpoint(kept).training == {"epoch": 3}
    assert not read_checkpoint(target).training
    assert f"{target} contains more than weights and would be overwritten: kept as {kept}" in caplog.text
    convert(CFG, tmp_path / "last.weights")  # what holds weights alone is replaced
    assert list(tmp_path.glob("last.*-*.pt")) == [kept]


WRONG_PAIRS = [
    ({"a": "filters=8\n->filters=6\n"}, r"#1: differs .* \(filters=8 there\)"),
    ({"a": "activation=leaky->activation=mish"}, r"#0: differs .* \(activation=leaky there\)"),
    ({"a": "layers=-1,0->layers=-1,0,0"}, r"#8: differs .* \(layers=-1,0 there\)"),
    ({"a": "classes=2->classes=3", "b": "filters=14->filters=16"}, r"#3: differs .* \(filters=14 there\)"),
]


@pytest.mark.parametrize("changes, fact", WRONG_PAIRS)
def test_a_wrong_pair_is_refused_naming_the_first_section_that_differs(changes, fact, model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", model)
    other = Darknet(network(**changes))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"a.pt: does not fit the cfg, .* new.cfg:\d+: \[\w+\] {fact}"):
        load_weights(other, tmp_path / "a.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_networks_of_other_length_are_refused(model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", model)
    text = CFG.read_text()
    longer = Darknet(Network.from_text(text + "[route]\nlayers=0\n", "new.cfg"))
    with pytest.raises(
        WeightsError, match=r"new.cfg:\d+: \[route\] #12: the checkpoint's network ends after 12"
    ):
        load_weights(longer, tmp_path / "a.pt")
    save_checkpoint(tmp_path / "b.pt", longer)
    with pytest.raises(WeightsError, match=r"#11: the checkpoint's network has 1 sections more after it"):
        load_weights(Darknet(model.network), tmp_path / "b.pt")


def test_what_only_training_and_decoding_use_may_differ(model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", model)
    other = Darknet(network(a="anchors=4,5->anchors=3,5", b="width=32->width=64", c="height=32->height=64"))
    load_weights(other, tmp_path / "a.pt")
    assert same(other, model)


def test_cutoff_takes_the_first_sections_of_a_checkpoint(model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", model)
    other = Darknet(network(a="classes=2->classes=3", b="filters=14->filters=16"))
    load_weights(other, tmp_path / "a.pt", cutoff=3)
    assert torch.equal(other.layers[2].conv.weight, model.layers[2].conv.weight)
    assert not torch.equal(other.layers[6].conv.weight, model.layers[6].conv.weight)
    with pytest.raises(WeightsError, match="cutoff=13 is out of range"):
        load_weights(other, tmp_path / "a.pt", cutoff=13)


class Hostile:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


@pytest.mark.parametrize(
    "content, fact",
    [
        ({"model": Hostile()}, "contains objects of .*print, which could run code"),
        ({"model": torch.nn.Linear(1, 1)}, "which could run code"),
        ([1, 2], "contains a list, not a dictionary"),
        ({"epoch": 3}, "has no 'model' with tensors"),
        ({"model": None, "epoch": 3}, "has no 'model' with tensors"),
        ({"model": {"layers.0.conv.weight": 3}}, "'layers.0.conv.weight' is not a tensor"),
        ({"model": {"layers.0": torch.ones(1)}, "cfg": "x"}, "'layers.0' is not the name"),
        ({"model": {"backbone.0.weight": torch.ones(1)}}, "'backbone.0.weight' is not the name"),
    ],
    ids=["hostile", "module", "list", "no model", "stripped", "no tensor", "odd name", "another framework's"],
)
def test_checkpoints_of_something_else_are_refused(content, fact, model, tmp_path, capsys):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=fact):
        load_weights(model, tmp_path / "a.pt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\0" * 30, b"PK\x03\x04junk", WeightsHeader().pack() + bytes(80)])
def test_files_that_are_no_checkpoint(content, model, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a.pt: is not a checkpoint.*; "):
        load_weights(model, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(model, tmp_path / "absent.pt")


WEIGHT = {"layers.0.conv.weight": torch.ones(1)}


@pytest.mark.parametrize(
    "content, fact",
    [
        (
            {"model": WEIGHT, "cfg": "x", "header": {"version": 3}},
            "'header' is not that of a .weights file",
        ),
        ({"model": WEIGHT, "cfg": "x", "header": None}, "'header' is not that of a .weights file"),
        ({"model": WEIGHT, "cfg": "x", "header": {1: 2}}, "'header' is not that of a .weights file"),
        (
            {"model": WEIGHT, "cfg": "x", "header": {"seen": -1}},
            "'header' is not that of a .weights file",
        ),
        ({"model": WEIGHT, "cfg": 3}, "its 'cfg' is of type int"),
        ({"model": WEIGHT, "cfg": "x", "training": None}, "its 'training' is of type NoneType"),
        ({"model": {3: torch.ones(1)}}, "3 is not a name"),
        (
            {"model": {"layers.0.conv.weight": torch.ones(1).to_sparse()}},
            "is not a tensor of real numbers",
        ),
        ({"model": {"layers.0.conv.weight": torch.ones(1) * 1j}}, "is not a tensor of real numbers"),
    ],
)
def test_contents_of_another_type_are_one_line(content, fact, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=rf"a.pt: .*{fact}; give ") as error:
        read_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of odd pickles
def test_damage_anywhere_in_the_pickle_is_one_line(tmp_path):
    torch.save(
        {"model": WEIGHT, "cfg": "x", "training": {"epoch": 3, "list": [1, (2, 3)]}}, tmp_path / "a.pt"
    )
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    refused = 0
    for position, new in itertools.product(range(len(members[pickled])), b"\x00.(RXQs"):
        data = bytearray(members[pickled])
        data[position] = new
        with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, bytes(data) if name == pickled else content)
        try:
            read_checkpoint(tmp_path / "b.pt")
        except WeightsError as error:
            refused += "\n" not in str(error)
    assert refused > 1000


def test_a_truncated_checkpoint(model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", model)
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is not a checkpoint, or damaged"):
        load_weights(model, tmp_path / "a.pt")


@pytest.mark.parametrize("conv, norm", [("Conv2d", "BatchNorm2d"), ("conv_{}", "batch_norm_{}")])
@pytest.mark.parametrize("numpy1", [False, True])
def test_checkpoints_of_the_published_programs_load(conv, norm, numpy1, model, tmp_path):
    path = tmp_path / "last.pt"
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    content = {
        "epoch": 7,
        "best_fitness": np.float64(0.25),
        "training_results": "   0/99  1.2G  0.5\n",
        "model": old_names(model, conv, norm),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)
    if numpy1:  # as numpy 1 named the function that makes a scalar
        rewrite_pickle(path, b"numpy._core.multiarray", b"numpy.core.multiarray")
    again = Darknet(model.network)
    load_weights(again, path)
    assert same(again, model)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.cfg, checkpoint.training["epoch"], checkpoint.training["best_fitness"]) == (
        None,
        7,
        0.25,
    )


@pytest.mark.parametrize("numpy1", [False, True])
def test_a_fitness_held_in_an_array_loads(numpy1, model, tmp_path):
    content = {"best_fitness": np.array([0.25]), "model": old_names(model, "Conv2d", "BatchNorm2d")}
    torch.save(content, tmp_path / "a.pt")
    if numpy1:
        rewrite_pickle(tmp_path / "a.pt", b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_checkpoint(tmp_path / "a.pt").training["best_fitness"] == 0.25


def rewrite_pickle(path: Path, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)


def test_old_checkpoints_of_another_network_name_the_section(model, tmp_path):
    torch.save({"model": old_names(model, "Conv2d", "BatchNorm2d")}, tmp_path / "a.pt")
    other = Darknet(network(a="filters=8\n->filters=6\n"))
    with pytest.raises(WeightsError, match=r"\[convolutional\] #1: layers.1.conv.weight is \(8, .* \(6, "):
        load_weights(other, tmp_path / "a.pt")


def test_bare_state_dicts_load(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "a.pt")
    again = Darknet(model.network)
    load_weights(again, tmp_path / "a.pt")
    assert same(again, model)
