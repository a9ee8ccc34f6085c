"""The library part needs numpy and torch only, and imports quickly."""

import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = ("cv2", "rich", "tqdm", "matplotlib", "onnx", "onnxruntime", "PIL", "jinja2", "faster_coco_eval")
CODE = f"""
import sys, time
import numpy, torch, torch.fx

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
start = time.process_time()
{{imports}}
seconds = time.process_time() - start
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3))
result = slim(model, torch.zeros(1, 3, 8, 8), ratio=0.5, align=1)
load(apply_plan(model, Plan.from_json(result.plan.to_json())), result.model.state_dict())
assert result.report.parameters[1] < result.report.parameters[0], result.report
print(seconds)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import utils\nfrom utils import Plan, apply_plan, load, slim",
        "from slim import Plan, apply_plan, load, slim",
    ],
    ids=["package", "checkout"],
)
def test_slim_needs_numpy_and_torch_only_and_imports_within_a_second(root: Path, imports: str) -> None:
    """CPU seconds beyond torch, so that other work on the machine does not count."""
    code = CODE.replace("{imports}", imports)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1
