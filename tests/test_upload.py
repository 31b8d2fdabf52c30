"""Voices on a hub: what is sent is what somebody else gets, and it speaks there."""

from __future__ import annotations

import base64
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fabricated import TABLE, one_error

from espnet_ext.storage.pretrained import pretrained
from espnet_ext.storage.zip_files import unpack_zip, write_zip

pytestmark = pytest.mark.espnet
HOW = {"decoding": "local_ar", "maxlenratio": 2.0, "seed": 3}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs."""

    sent: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:  # noqa: N802
        if "/tree/" in self.path:  # what an earlier upload left
            self.answer([{"type": "file", "path": "stale.yaml", "size": 1, "oid": "0" * 40}])
        else:
            old = [{"rfilename": "stale.yaml"}]
            self.answer({"id": "me/voice", "sha": "0" * 40, "siblings": old, "private": False, "tags": []})

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path.endswith("/create"):
            self.answer({"url": f"{server}/me/voice", "id": "1"})
        elif "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "deletedFile":
                    self.sent.pop(item["value"]["path"], None)
                if item["key"] == "file":
                    self.sent[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            self.answer({"commitUrl": f"{server}/me/voice/commit/0", "commitOid": "0" * 40, "pullRequestUrl": None})
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is an extra")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    sent: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"sent": sent}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


def test_an_upload_sends_the_voice_with_a_card_of_its_results(
    hub: tuple[str, dict[str, bytes]], voice: Path, experiment: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import upload
    from espnet_ext.inference import Speaker

    address, sent = hub
    sent["stale.yaml"] = b"of an earlier voice"
    upload.main([str(voice), "me/voice", "--endpoint", address])
    with zipfile.ZipFile(voice) as archive:
        assert set(sent) == {*archive.namelist(), "README.md"}
    card = sent["README.md"].decode()
    assert (
        card.startswith("---\n")
        and TABLE in card
        and "CC0 1.0" in card
        and "espnet_ext[hub,world]" in card
        and "espnet-ext say me/voice" in card
    )
    for name, content in sent.items():  # as somebody else gets it, with what a hub adds
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    (tmp_path / "got" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (tmp_path / "got" / "README.md").write_text("The card as somebody else edited it.")
    expected = Speaker.from_experiment(experiment)("abba", **HOW).codes
    assert np.array_equal(Speaker.from_pretrained(tmp_path / "got")("abba", **HOW).codes, expected)


def test_a_hubs_name_is_fetched_or_says_why_not(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is an extra")
    from espnet_ext.bin import say

    asked = []

    def fetch(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        if repo != "me/voice":
            raise hub.errors.LocalEntryNotFoundError("no network")
        return str(tmp_path / "snapshot")

    unpack_zip(voice, tmp_path / "snapshot")
    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert pretrained("me/voice@v1.0").directory == tmp_path / "snapshot"
    error = one_error(say.main, "my/none", "abba", "-o", tmp_path / "x.wav")
    assert error == "error: there is no directory my/none here, and the hub has none to fetch: no network"
    assert "voice not found: exp/none" in one_error(say.main, "exp/none", "abba", "-o", tmp_path / "x.wav")
    assert asked == [("me/voice", "v1.0"), ("my/none", None)]


def test_a_dry_run_shows_the_card_and_sends_nothing(
    hub: tuple[str, dict[str, bytes]], voice: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from espnet_ext.bin import upload

    address, sent = hub
    caplog.set_level("INFO")
    upload.main([str(voice), "me/voice", "--endpoint", address, "--dry_run"])
    assert not sent and TABLE in caplog.text and "config.yaml" in caplog.text


def test_what_cannot_be_sent_is_one_line(voice: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import upload

    (tmp_path / "a").write_text("a")
    write_zip(tmp_path, tmp_path.parent / "other.zip")
    assert "repo must be owner/name" in one_error(upload.main, voice, "voice")
    assert "without voice.json" in one_error(upload.main, tmp_path.parent / "other.zip", "me/voice")
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is an extra")
    assert "could not be sent" in one_error(upload.main, voice, "me/voice", "--endpoint", "http://127.0.0.1:9")
