"""Downloads from a server of the test's own: cut short, resumed, damaged, unpacked; nothing else is ever contacted."""

from __future__ import annotations

import hashlib
import http.server
import io
import random
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet_ext.storage.download import Source, download, extract

ROOT = Path(__file__).resolve().parent.parent
FILES = {"LibriTTS/LICENSE.txt": b"CC BY 4.0"} | {
    f"LibriTTS/{part}/19/198/19_198_000000_00000{number}.wav": random.Random(f"{part} {number}").randbytes(3000)
    for part in ("dev-clean", "test-clean")
    for number in range(3)
}


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every name; the first answer ends after `first` bytes."""

    content = archive_of(FILES)
    first: int | None = None
    can_resume = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers like a plain web server."""

    server: Server

    def do_GET(self) -> None:
        content, wanted = self.server.content, self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.can_resume else 0
        if wanted and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = self.server.first if len(self.server.ranges) == 1 else None
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def source_of(server: Server, checksum: bool = True) -> Source:
    digest = f"sha256:{hashlib.sha256(Server.content).hexdigest()}" if checksum else ""
    return Source(f"{server.url}/dev-clean.tar.gz", digest, ", or give a copy with --libritts PATH")


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("can_resume", [True, False])
def test_a_download_cut_in_half_is_continued(tmp_path: Path, server: Server, checksum: bool, can_resume: bool) -> None:
    target, size = tmp_path / "downloads" / "x.tar.gz", len(server.content)
    server.first, server.can_resume = size // 2, can_resume
    with pytest.raises(ValueError, match=f"the connection ended after {size // 2} of {size} bytes.; run again to con"):
        download(source_of(server, checksum), target)
    assert not target.exists()
    assert download(source_of(server, checksum), target).read_bytes() == server.content
    assert download(source_of(server, checksum), target) == target
    assert server.ranges == ["", f"bytes={size // 2}-"], "a finished download was fetched again"


def test_a_run_that_ended_between_download_and_check_is_continued_there(tmp_path: Path, server: Server) -> None:
    """The server has nothing left to send then and says 416; the digits recipe used to start anew."""
    (tmp_path / "x.tar.gz.part").write_bytes(server.content)
    assert download(source_of(server), tmp_path / "x.tar.gz").read_bytes() == server.content
    assert not (tmp_path / "x.tar.gz.part").exists()


@pytest.mark.parametrize("place", [10, 5000])
@pytest.mark.parametrize("checksum", [True, False])
def test_damage_is_told_and_the_next_run_starts_anew(
    tmp_path: Path, server: Server, checksum: bool, place: int
) -> None:
    """What tarfile says about a damaged beginning has several lines."""
    target = tmp_path / "x.tar.gz"
    server.content = server.content[:place] + bytes(100) + server.content[place + 100 :]
    with pytest.raises(ValueError, match=r"arrived damaged and was removed \(.*; run again, or give a copy") as caught:
        download(source_of(server, checksum), target)
    if checksum:
        expected, found = (hashlib.sha256(content).hexdigest() for content in (Server.content, server.content))
        assert f"its sha256 must be {expected}, got {found}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    server.content = Server.content
    assert download(source_of(server, checksum), target).read_bytes() == Server.content
    assert server.ranges == ["", ""]


def test_a_server_that_does_not_answer_is_one_line_with_a_way_out(tmp_path: Path, server: Server) -> None:
    nobody = Source("http://127.0.0.1:9/x.tar.gz", advice=", or give a copy with --libritts PATH")
    with pytest.raises(ValueError, match="cannot download .*refused.*run again to continue, or give a copy") as caught:
        download(nobody, tmp_path / "x.tar.gz")
    assert "\n" not in str(caught.value)


def test_one_folder_of_an_archive_is_unpacked_and_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    archive, out = tmp_path / "x.tar.gz", tmp_path / "LibriTTS" / "dev-clean"
    archive.write_bytes(Server.content[: len(Server.content) // 2])
    with pytest.raises(ValueError, match=r"x.tar.gz must be a complete tar archive"):
        extract(archive, "LibriTTS/dev-clean", out)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []
    archive.write_bytes(Server.content)
    assert extract(archive, "LibriTTS/dev-clean", out) == 3
    found = {f"LibriTTS/dev-clean/{path.relative_to(out)}": path.read_bytes() for path in out.rglob("*.wav")}
    assert found == {name: content for name, content in FILES.items() if "dev-clean" in name}
    with pytest.raises(ValueError, match="must hold LibriTTS/train-clean-100, found nothing there"):
        extract(archive, "LibriTTS/train-clean-100", tmp_path / "train")
    assert not (tmp_path / "train").exists()


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(archive_of({"LibriTTS/dev-clean/../../../evil": b"x"}))
    with pytest.raises(ValueError, match="without odd members"):
        extract(archive, "LibriTTS/dev-clean", tmp_path / "deep" / "dev-clean")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.tar.gz"]


def test_a_part_of_libritts_is_downloaded_checked_and_unpacked_once(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "egs2" / "libritts" / "codec_lm1" / "local"))
    from download_libritts import CHECKSUMS, fetch_part

    assert {len(checksum) for checksum in CHECKSUMS.values()} == {64}
    out = tmp_path / "downloads" / "LibriTTS"
    with pytest.raises(ValueError, match="its sha256 must be 0{64}, got [0-9a-f]{64}.; run again, or give a copy with"):
        fetch_part("dev-clean", out, server.url, "0" * 64)
    assert not out.exists()
    server.ranges.clear()
    for _ in range(2):
        fetch_part("dev-clean", out, server.url, hashlib.sha256(server.content).hexdigest())
    assert len(list(out.glob("dev-clean/19/198/*.wav"))) == 3
    assert server.ranges == [""], "a part that is there was fetched again"


def test_the_digits_come_through_the_same_download(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "egs2" / "fsdd" / "codec_lm1" / "local"))
    import fsdd_recordings

    monkeypatch.setattr(fsdd_recordings, "URL", f"{server.url}/fsdd.tar.gz")
    server.first = 100
    with pytest.raises(ValueError, match="run again to continue, or give a copy with --fsdd PATH"):
        fsdd_recordings.download_recordings(tmp_path)
    assert fsdd_recordings.download_recordings(tmp_path).read_bytes() == server.content
    assert server.ranges == ["", "bytes=100-"]
    sys.modules.pop("fsdd_recordings")
