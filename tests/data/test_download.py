import hashlib
import http.server
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from utils.data.download import download, unpack
from utils.errors import DatasetError

CONTENT = bytes(range(256)) * 9000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; understands ranges as `http.server` itself does not; breaks off where told to."""

    breaks_at: int | None = None
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.breaks_at])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url():
    Server.breaks_at, Server.asked = None, []
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


def test_a_file_arrives_with_progress(url, tmp_path):
    seen = []
    target = download(url, tmp_path / "deep/file", MD5, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_what_broke_off_is_continued(url, tmp_path):
    Server.breaks_at = 100_000
    with pytest.raises(DatasetError, match="run again to resume"):
        download(url, tmp_path / "file", MD5)
    assert not (tmp_path / "file").exists()
    done = (tmp_path / "file.part").stat().st_size
    Server.breaks_at = None
    assert download(url, tmp_path / "file", MD5).read_bytes() == CONTENT
    assert Server.asked == [None, f"bytes={done}-"]


def test_another_file_is_refused_and_not_kept(url, tmp_path):
    with pytest.raises(DatasetError, match=f"has MD5 {MD5}, not 00"):
        download(url, tmp_path / "file", "00")
    assert not list(tmp_path.iterdir())


def test_a_right_file_that_is_there_is_not_fetched_again(url, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    download(url, tmp_path / "file", MD5)
    assert Server.asked == []


def test_an_address_without_an_answer_is_told(tmp_path):
    with pytest.raises(DatasetError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/file", tmp_path / "file")


@pytest.mark.parametrize("kind", ["name", "link"])
def test_an_archive_cannot_write_outside(tmp_path, kind):
    source = tmp_path / "evil"
    source.write_text("evil")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        if kind == "name":
            tar.add(source, arcname="../../escaped")
        else:
            link = tarfile.TarInfo("way")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(link)
            tar.add(source, arcname="way/escaped")
    (tmp_path / "deep/in").mkdir(parents=True)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "deep/in")
    assert not list(tmp_path.rglob("escaped"))


def test_a_broken_archive_is_told(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_files_may_be_local(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(CONTENT)
    assert download((tmp_path / "here").as_uri(), tmp_path / "there", MD5).read_bytes() == CONTENT
