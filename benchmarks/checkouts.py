"""Copies of checkouts in which commands run, so that what they leave there is theirs alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# As README.md has it, with what it says written to a folder.
SLIM_CALL = """
import torch
from examples.mobilenetv2 import MobileNetV2
from slim import Plan, apply_plan, load, slim

torch.manual_seed(0)
model, example = MobileNetV2(classes=10).eval(), torch.zeros(1, 3, 224, 224)
result = slim(model, example, ratio=0.5, score="l1", exclude=["features.0"])
print(result.report)
"""


def git(root: Path, *words: str) -> str:
    """What git says of a checkout."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_of(root: Path) -> str:
    """The commit of a checkout, with a + behind it where files were changed since."""
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    return git(root, "rev-parse", "--short=7", "HEAD") + ("+" if changed else "")


def copy_tree(root: Path, folder: Path) -> None:
    """Copy what git knows of a checkout, or would know after `git add`, as it is on the disk."""
    words = "-c", "core.quotepath=off", "ls-files", "--cached", "--others", "--exclude-standard"
    for name in git(root, *words).splitlines():
        source, target = root / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def run_in(
    folder: Path, words: Sequence[str], more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with these words in a folder, on one thread, with the folder's own modules alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    environment |= {"COLUMNS": "110", **(more or {})}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
