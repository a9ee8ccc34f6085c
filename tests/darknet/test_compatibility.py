"""What is said of other programs, held against OpenCV: one feature, one tiny network, random weights."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.darknet.references import OPENCV_VARIANCE_SHIFT, as_map, random_images
from utils.darknet.compatibility import (
    OPENCV_ACTIVATIONS,
    darknet_findings,
    onnx_findings,
    opencv_findings,
    opencv_notes,
    opencv_text_findings,
    tensorrt_findings,
    verdict,
)
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.darknet.reading import ACTIVATIONS
from utils.darknet.weights import write_weights

NET = "[net]\nwidth=16\nheight=16\nchannels=3\n"
END = "[convolutional]\nfilters=7\nsize=1\nactivation=linear\n[yolo]\nmask=0\nanchors=4,5\nclasses=2\nnum=1\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
GATE = "[scale_channels]\nfrom=-3\n"
CONNECTED = "[connected]\noutput=8\nactivation=relu\n"
WEIGHTED = "[shortcut]\nfrom=-2\nweights_type={}\nweights_normalization={}\n"


def network_with(sections: str, end: str = END) -> Network:
    return Network.from_text(NET + CONV + sections + end)


def randomised(network: Network) -> Darknet:
    model = Darknet(network)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5, generator=generator)
    return model.eval()


def opencv_effect(network: Network, folder: Path, text: str | None = None) -> str:
    """What OpenCV really makes of the network: the same map before the first head, another one, or none."""
    model, images = randomised(network), random_images(Darknet(network))
    (folder / "net.cfg").write_text(text or network.to_cfg())
    expected = as_map(model(images)[0])
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor += OPENCV_VARIANCE_SHIFT
    write_weights(folder / "net.weights", model, model.header)
    try:
        net = cv2.dnn.readNetFromDarknet(str(folder / "net.cfg"), str(folder / "net.weights"))
    except cv2.error:
        return "refuses"
    net.enableWinograd(False)
    net.setInput(images.numpy())
    try:
        actual = net.forward(f"conv_{network.sources(network.heads[0])[0]}")
    except cv2.error:
        return "reads wrongly"
    same = actual.shape == expected.shape and np.abs(actual - expected).max() < 1e-3 * np.abs(expected).max()
    return "accepts" if same else "reads wrongly"


SECTIONS = {
    "plain": CONV,
    "batch norm": CONV + "batch_normalize=1\n",
    "batch norm by another name": CONV + "cbn=1\n",
    "groups": CONV + "groups=4\n",
    "even size": CONV.replace("size=3", "size=4"),
    "dilation": CONV + "dilation=2\n",
    "stride_x": CONV + "stride_x=2\n",
    "stride_x and stride": CONV + "stride=2\nstride_x=2\nstride_y=2\n",
    "share_index": CONV + CONV + "share_index=-1\n",
    "shortcut": CONV + "[shortcut]\nfrom=-2\nactivation=leaky\n",
    "unequal shortcut": CONV.replace("=8", "=5") + "[shortcut]\nfrom=-2\n",
    "several from": CONV + CONV + "[shortcut]\nfrom=-2,-3\n",
    "per_feature": CONV + WEIGHTED.format("per_feature", "relu"),
    "per_channel": CONV + WEIGHTED.format("per_channel", "softmax"),
    "route": CONV + "[route]\nlayers=-1,-2\n",
    "route part": "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n",
    "route parts of two": CONV + "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n",
    "maxpool": "[maxpool]\nsize=3\nstride=2\npadding=1\n",
    "maxpool stride_x": "[maxpool]\nsize=2\nstride=2\nstride_x=1\n",
    "avgpool": "[avgpool]\n",
    "local_avgpool": "[local_avgpool]\nsize=2\nstride=2\n",
    "upsample": "[upsample]\nstride=2\n",
    "upsample scale": "[upsample]\nstride=2\nscale=2\n",
    "downsample": "[upsample]\nstride=-2\n",
    "reorg": "[reorg]\nstride=2\n",
    "reorg3d": "[reorg3d]\nstride=2\n",
    "dropout": "[dropout]\nprobability=.3\n",
    "empty": "[empty]\n",
    "batchnorm": "[batchnorm]\n",
    "activation": "[activation]\nactivation=leaky\n",
    "sam": CONV + CONV + "[sam]\nfrom=-2\n",
    "scale_channels": "[avgpool]\n" + CONV + GATE,
    "scale_wh": CONV.replace("=8", "=1") + "[scale_channels]\nfrom=-2\nscale_wh=1\n",
    "connected as gate": "[avgpool]\n" + CONNECTED + GATE,
    "connected over a map": "[connected]\noutput=4\nactivation=relu\n" + CONNECTED + GATE,
    "connected with batch norm": "[avgpool]\n[connected]\noutput=8\nbatch_normalize=1\nactivation=relu\n"
    + GATE,
    "connected before a convolution": CONNECTED,
    "softmax of one cell": "[avgpool]\n[softmax]\n",
    "softmax of a map": "[softmax]\n",
    "spatial softmax": "[softmax]\nspatial=1\n",
    "softmax temperature": "[avgpool]\n[softmax]\ntemperature=2\n",
    "softmax groups": "[softmax]\ngroups=2\n",
    **{f"activation {name}": CONV.replace("leaky", name) for name in ACTIVATIONS},
}


@pytest.mark.parametrize("sections", SECTIONS.values(), ids=SECTIONS)
def test_opencv_does_what_is_said_of_it(sections, tmp_path):
    network = network_with(sections)
    assert verdict(opencv_findings(network)) == opencv_effect(network, tmp_path)


HEADS = {
    "fewer anchors than given": END.replace("=4,5", "=4,5,7,8"),
    "Gaussian_yolo": END.replace("=7", "=11").replace("[yolo]", "[Gaussian_yolo]"),
    "region": END.replace("[yolo]\nmask=0", "[region]\nsoftmax=1"),
}


@pytest.mark.parametrize("end", HEADS.values(), ids=HEADS)
def test_opencv_takes_the_heads_that_are_said(end, tmp_path):
    network = network_with("", end)
    assert verdict(opencv_findings(network)) == opencv_effect(network, tmp_path)


TEXTS = {
    "as written here": CONV,
    "alias": CONV.replace("convolutional", "conv"),
    "key twice": CONV + "activation=linear\n",
    "key twice, alike": CONV + "activation=leaky\n",
    "remark behind a number": CONV.replace("=8", "=8 # eight"),
    "blanks": CONV.replace("=", " = "),
    "comment lines": "# a=b\n; [x]\n" + CONV,
    "no activation": "[convolutional]\nfilters=8\nsize=3\npad=1\n",
    "no filters": "[convolutional]\nsize=3\npad=1\nactivation=leaky\n",
    "no size": "[convolutional]\nfilters=8\nactivation=leaky\n",
    "maxpool without stride": "[maxpool]\nsize=2\n",
    "maxpool without size": "[maxpool]\nstride=2\n",
    "upsample without stride": "[upsample]\n",
}


@pytest.mark.parametrize("sections", TEXTS.values(), ids=TEXTS)
def test_opencv_reads_the_users_text_as_is_said(sections, tmp_path):
    text = NET + CONV + sections + END
    network = Network.from_text(text)
    assert verdict(opencv_findings(network)) == "accepts"
    assert verdict(opencv_text_findings(text, network)) == opencv_effect(network, tmp_path, text)


@pytest.mark.parametrize("key", ["mask=0\n", "num=1\n"])
def test_opencv_refuses_heads_that_leave_to_darknet_what_it_knows(key, tmp_path):
    text = NET + CONV + END.replace(key, "")
    network = Network.from_text(text)
    findings = opencv_text_findings(text, network)
    assert [finding.effect for finding in findings] == ["refuses"]
    assert opencv_effect(network, tmp_path, text) == "refuses"


@pytest.mark.parametrize(
    ("head", "least"),
    [(END, 0.2), (END + "thresh=.35\n", 0.35), (HEADS["region"] + "thresh=.3\n", 0.3)],
    ids=["yolo", "yolo thresh", "region thresh"],
)
def test_opencv_zeroes_the_scores_that_are_said(head, least, tmp_path):
    network = network_with("", head)
    model, images = randomised(network), random_images(Darknet(network))
    (tmp_path / "net.cfg").write_text(network.to_cfg())
    write_weights(tmp_path / "net.weights", model, model.header)
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    net.setInput(images.numpy())
    scores = net.forward()[:, 5:]
    assert (scores > 0).any()
    assert (scores == 0).any()
    assert scores[scores > 0].min() > least
    assert any(f"up to {least:g} to 0" in finding.fact for finding in opencv_notes(network))


def test_the_epsilon_is_mentioned_only_where_there_is_batch_norm():
    facts = [[n.fact for n in opencv_notes(network_with(s))] for s in ("", CONV + "batch_normalize=1\n")]
    assert [any("epsilon" in fact for fact in found) for found in facts] == [False, True]


@pytest.mark.parametrize("batch", [1, 2])
def test_opencv_scales_channels_of_one_image_at_a_time(batch, tmp_path):
    network = network_with("[avgpool]\n" + CONV + GATE)
    assert any("one image at a time" in note.fact for note in opencv_notes(network))
    model = randomised(network)
    (tmp_path / "net.cfg").write_text(network.to_cfg())
    write_weights(tmp_path / "net.weights", model, model.header)
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    net.setInput(np.zeros((batch, 3, 16, 16), np.float32))
    if batch == 1:
        assert np.isfinite(net.forward()).all()
    else:
        with pytest.raises(cv2.error):
            net.forward()


def test_findings_name_the_section_and_its_line():
    (finding,) = opencv_findings(network_with("[reorg3d]\nstride=2\n"))
    assert (finding.section, finding.place) == (1, "<cfg>:10: [reorg3d] #1")


NARROW = CONV.replace("=8", "=4")
ADD = CONV + "[shortcut]\nfrom=-2\n"


@pytest.mark.parametrize(
    ("sections", "is_misread"),
    [(NARROW + ADD, True), (CONV + ADD, False), (NARROW + NARROW + ADD, False)],
    ids=["narrower than its input", "as wide as its input", "narrow, and its input too"],
)
def test_darknet_misreads_only_sources_narrower_than_their_input(sections, is_misread):
    """It takes the shape of a source's input for that of its output."""
    assert bool(darknet_findings(network_with(sections))) == is_misread


def test_an_onnx_file_needs_heads_and_tensorrt_needs_the_onnx_file():
    blind = Network.from_text(NET + CONV)
    assert verdict(onnx_findings(blind)) == verdict(tensorrt_findings(blind)) == "refuses"
    seeing = network_with("")
    assert (verdict(onnx_findings(seeing)), verdict(tensorrt_findings(seeing))) == ("accepts", "untried")


def test_activations_are_those_that_this_project_knows():
    assert OPENCV_ACTIVATIONS.issubset(ACTIVATIONS)
