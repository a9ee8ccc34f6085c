"""OpenVINO in a process that gets signals."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT

# A session that another thread ends, as one does that collects garbage; then the signal of a child that ends.
PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
from utils.runtimes.openvino import OpenVino

held = [OpenVino().load(Path(sys.argv[1]))]
held[0].infer(np.zeros((1, 3, 4, 4), np.float32))
ending = threading.Thread(target=held.clear)
ending.start()
ending.join()
signal.signal(signal.SIGCHLD, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGCHLD)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_a_session_that_has_ended_does_no_harm_to_signals(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx = pytest.importorskip("onnx")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "relu.onnx")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "relu.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "handled" in done.stdout
