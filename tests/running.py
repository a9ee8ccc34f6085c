"""Scripts as a user runs them, a process each."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 120  # seconds


def run(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python script words` in `folder`."""
    command = [sys.executable, str(ROOT / script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )


def run_forked(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in a fork of a process that has loaded torch, which saves two seconds; `run` elsewhere."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return run(folder, script, *words)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "cv2", "utils.cli", "tests.running"])
    outputs = [folder / f".{name}" for name in ("stdout", "stderr")]
    process = processes.Process(target=_type, args=(folder, ROOT / script, words, outputs))
    process.start()
    process.join(_PATIENCE)
    assert process.exitcode is not None, f"{script} hangs"
    texts = [path.read_text(encoding="utf-8") for path in outputs]
    for path in outputs:
        path.unlink()
    return subprocess.CompletedProcess([script, *words], process.exitcode, *texts)


def _type(folder: Path, script: Path, words: tuple[str, ...], outputs: list[Path]) -> None:
    os.chdir(folder)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    sys.argv = [str(script), *words]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")
