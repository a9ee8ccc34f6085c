"""Files that are whole or absent: what a killed process leaves is cleared away, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import ToolkitError
from utils.files import atomic_path, atomic_paths, protect_inputs, require_writable, set_aside


@pytest.mark.skipif(os.name == "nt", reason="processes are not asked there")
def test_parts_of_ended_processes_are_removed_and_no_others(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = tmp_path / f".last.{ended.pid}.part.pt"
    others = [f".last.{os.getppid()}.part.pt", f".best.{ended.pid}.part.pt", f".last.{ended.pid}.part.txt"]
    for name in (stale.name, *others):
        (tmp_path / name).write_bytes(b"half")
    with atomic_path(tmp_path / "last.pt") as temporary:
        assert not stale.exists()
        temporary.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "last.pt"])


def test_files_that_belong_together_get_their_names_together(tmp_path):
    """A folder is in the way of the last: not even the first is renamed."""
    paths = [tmp_path / name for name in ("net.cfg", "net.weights", "net.json")]
    paths[0].write_bytes(b"old")
    paths[2].mkdir()

    def write() -> None:
        with atomic_paths(*paths) as temporaries:
            for temporary in temporaries:
                temporary.write_bytes(b"new")

    with pytest.raises(IsADirectoryError):
        write()
    assert paths[0].read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.cfg", "net.json"]


def test_files_that_belong_together_are_all_there_when_the_first_is(tmp_path, monkeypatch):
    renamed = []
    replace = os.replace
    monkeypatch.setattr(
        "utils.files.os.replace", lambda *names: (renamed.append(names[1].name), replace(*names))
    )
    with atomic_paths(tmp_path / "net.xml", tmp_path / "net.bin") as temporaries:
        for temporary in temporaries:
            temporary.write_bytes(b"whole")
    assert renamed == ["net.bin", "net.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]


def test_of_files_that_belong_together_none_is_written_where_one_fails(tmp_path):
    def write_half():
        with atomic_paths(tmp_path / "net.xml", tmp_path / "net.bin") as (_, last):
            last.write_bytes(b"half")
            raise ZeroDivisionError

    (tmp_path / "net.bin").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["net.bin"]
    assert (tmp_path / "net.bin").read_bytes() == b"before"


def test_what_is_set_aside_keeps_its_content_under_a_new_name(tmp_path):
    path = tmp_path / "last.pt"
    kept = []
    for content in (b"first", b"second"):
        path.write_bytes(content)
        kept.append(set_aside(path))
    assert not path.exists()
    assert [name.read_bytes() for name in kept] == [b"first", b"second"]


@pytest.mark.parametrize("given", ["out/best.pt", "link.pt"])
def test_an_input_is_kept_however_it_is_spelled(tmp_path, monkeypatch, given):
    """Relative, or by a link to the output: the map leads to the old content by the resolved path."""
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out/best.pt"
    output.parent.mkdir()
    output.write_bytes(b"teacher")
    (tmp_path / "link.pt").symlink_to(output)
    moved = protect_inputs([output], [Path(given), None])
    assert not output.exists()
    assert moved[output].read_bytes() == b"teacher"


def test_a_folder_that_can_be_made_is_writable_and_nothing_is_left(tmp_path):
    require_writable(tmp_path / "new/folder", "choose another")
    assert not list(tmp_path.iterdir())


def test_a_folder_inside_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match=r"out: cannot be written to .*; choose another"):
        require_writable(tmp_path / "file/out", "choose another")
