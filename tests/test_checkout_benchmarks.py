"""Comparing what two checkouts wrote, and counting what a checkout is made of."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import against_commit, files_opened

ONE = {
    "map50": 0.5,
    "sections": [{"kept": "8:ff"}, {"kept": "8:0f"}],
    "seconds": 1.0,
    "cfg": "{folder}/a.cfg",
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """What two runs left, equal but for times and the place."""
    folders = tmp_path / "base", tmp_path / "new"
    for number, folder in enumerate(folders):
        folder.mkdir()
        values = ONE | {"seconds": number, "cfg": f"{folder}/a.cfg"}
        (folder / "net.json").write_text(json.dumps(values))
        (folder / "history.csv").write_text(f"epoch,loss,seconds\n1,0.25,{number}\n")
        (folder / "net.html").write_text(f"took {number} s")
        (folder / "net.weights").write_bytes(b"weights")
        torch.save({"model": {"weight": torch.ones(2)}, "seconds": number}, folder / "last.pt")
    return folders


def told(folders: tuple[Path, Path]) -> dict[str, str]:
    return {name: text for name, text in against_commit.compare(*folders) if text}


def test_times_and_places_may_differ(folders: tuple[Path, Path]) -> None:
    assert len(list(against_commit.compare(*folders))) == 5
    assert told(folders) == {}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (ONE | {"map50": 0.5000000000000001}, ".map50: 0.5 / 0.5000000000000001"),
        (ONE | {"sections": [{"kept": "8:ff"}, {"kept": "8:1f"}]}, ".sections.1.kept: '8:0f' / '8:1f'"),
        (ONE | {"more": 1}, ".more: missing in base"),
        ({key: ONE[key] for key in ONE if key != "seconds"}, ".seconds: missing in new"),
        (ONE | {"map50": None}, ".map50: 0.5 / None"),
    ],
)
def test_a_changed_value_is_told_with_its_place(
    folders: tuple[Path, Path], changed: dict[str, object], text: str
) -> None:
    changed = changed | {"cfg": f"{folders[1]}/a.cfg"}
    (folders[1] / "net.json").write_text(json.dumps(changed))
    assert told(folders) == {"net.json": text}


def test_bytes_cells_tensors_and_names_are_compared(folders: tuple[Path, Path]) -> None:
    (folders[1] / "net.weights").write_bytes(b"Weights")
    (folders[1] / "history.csv").write_text("epoch,loss,seconds\n1,0.26,9\n")
    torch.save({"model": {"weight": torch.tensor([1.0, 1.0000001])}, "seconds": 3}, folders[1] / "last.pt")
    (folders[1] / "net.html").unlink()
    (folders[1] / "more.cfg").write_text("[net]")
    found = told(folders)
    assert found.pop("net.weights").startswith("sha256 ")
    assert found == {
        "history.csv": ".0.loss: '0.25' / '0.26'",
        "last.pt": ".model.weight: another tensor",
        "more.cfg": "missing in base",
        "net.html": "missing in new",
    }


def test_measures_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("words")
    commands = tmp_path / "utils/commands"
    commands.mkdir(parents=True)
    (commands / "one.py").write_text(
        "def f(args): return getattr(args, 'x', None)\n"
        "def g(job, names: argparse.Namespace): return getattr(job.args, 'x') or getattr(job, 'args')\n"
        "def h(self, a, b, c, d, /, e, f, g, *more, i, **rest): ...\n"
        "def k(a, b, c, d, e, f, g, h, *, i): ...\n"
    )
    assert files_opened.sizes(tmp_path) == {
        "commands": 1,
        "args_functions": 2,
        "getattr_args": 2,
        "many_parameters": 1,
        "readme_bytes": 5,
    }


def test_a_line_takes_the_place_of_its_commits(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    for commit, value in (("a", "1"), ("b", "2"), ("a", "3")):
        files_opened.write(table, {"commit": commit, "train": value})
    assert table.read_text() == "commit,train\nb,2\na,3\n"


def test_the_witness_sees_functions_alone(tmp_path: Path) -> None:
    """In the interpreter's own start, threads and workers; not bodies of classes and modules."""
    tree, witness, log = tmp_path / "tree", tmp_path / "witness", tmp_path / "log"
    (tree / "utils").mkdir(parents=True)
    witness.mkdir()
    (witness / "sitecustomize.py").write_text(files_opened.WITNESS)
    (tree / "utils/body.py").write_text("class A:\n    x = [n for n in range(3)]\ndef never(): ...\n")
    for name in ("called", "thread", "worker", "files"):
        (tree / f"utils/{name}.py").write_text("def run(): ...\n")
    (tree / "script.py").write_text(
        "import multiprocessing, threading\n"
        "from utils import body, called, files, thread, worker\n"
        "called.run(), files.run()\n"
        "t = threading.Thread(target=thread.run); t.start(); t.join()\n"
        "if __name__ == '__main__':\n"
        "    p = multiprocessing.get_context('spawn').Process(target=worker.run); p.start(); p.join()\n"
    )
    log.touch()
    more = {"PYTHONPATH": str(witness), "OPENED_ROOT": str(tree), "OPENED_LOG": str(log)}
    done = files_opened.run_in(tree, ["script.py"], more)
    assert done.returncode == 0, done.stderr
    seen = {name for name in log.read_text().splitlines() if files_opened.counts(name)}
    assert seen == {f"utils/{name}.py" for name in ("called", "thread", "worker")}


def test_a_base_runs_once_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(against_commit, "STEPS", {"none": "-c pass"})
    monkeypatch.setattr(against_commit, "copy_tree", lambda root, folder: (folder.mkdir(), ran.append(root)))
    for commit in ("a+", "a", "a", "b"):
        monkeypatch.setattr(against_commit, "commit_of", lambda _, commit=commit: commit)
        assert against_commit.run_base(tmp_path, tmp_path / "base") == []
    assert len(ran) == 3


def test_a_step_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_commit, "STEPS", {"fail": "-c 'raise SystemExit(\"no such thing\")'"})
    monkeypatch.setattr(against_commit, "copy_tree", lambda _, folder: folder.mkdir())
    rows = against_commit.run_steps(tmp_path, tmp_path / "new")
    assert rows == [("new: fail", "exit code 1: no such thing")]
