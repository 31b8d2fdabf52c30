"""Voices in one file: they speak elsewhere with the very codes, and no damaged or hostile one gets anywhere."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fabricated import one_error

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import content_hash
from espnet_ext.storage.voice_files import VOICE_NAME, check_list
from espnet_ext.storage.zip_files import unpack_zip, write_zip

pytestmark = pytest.mark.espnet
HOW = {"decoding": "local_ar", "maxlenratio": 2.0, "seed": 3}
TABLE = "|strategy|WER %|\n|---|---:|\n|parallel|9.1|"
RESULTS = (
    f"# RESULTS\n\n- data: `/home/me/secret`\n\n## test\n\n### Strategies\n\n{TABLE}\n\n### WER\n\n![wer](a/wer.png)\n"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def voice(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fabricated experiment in one file."""
    from espnet_ext.bin import pack

    place = tmp_path_factory.mktemp("packed")
    (place / "RESULTS.md").write_text(RESULTS)
    output = place / "voice.zip"
    pack.main([str(experiment), "-o", str(output), "--results", str(place / "RESULTS.md"), "--data_license", "CC0 1.0"])
    return output


def served(directory: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_packed_voice_says_the_same_by_file_address_and_directory(
    experiment: Path, voice: Path, tmp_path: Path
) -> None:
    from espnet_ext.inference import Speaker

    expected = Speaker.from_experiment(experiment)("abba", **HOW).codes
    server = served(voice.parent)
    address = f"http://127.0.0.1:{server.server_port}/voice.zip"
    unpack_zip(voice, tmp_path / "unpacked")
    try:
        for source in (voice, address, f"{address}#sha256={content_hash(voice)}", tmp_path / "unpacked"):
            assert np.array_equal(Speaker.from_pretrained(source)("abba", **HOW).codes, expected), source
    finally:
        server.shutdown()
        server.server_close()
    assert np.array_equal(Speaker.from_pretrained(address)("abba", **HOW).codes, expected)  # it was kept


def test_the_same_experiment_makes_the_same_file(experiment: Path, voice: Path, tmp_path: Path) -> None:
    from espnet_ext.sharing.pack import pack

    pack(experiment, tmp_path / "again.zip", data_license="CC0 1.0", results=voice.parent / "RESULTS.md")
    assert (tmp_path / "again.zip").read_bytes() == voice.read_bytes()


def test_the_list_tells_licences_and_versions_and_results_name_no_place(voice: Path, tmp_path: Path) -> None:
    unpack_zip(voice, tmp_path / "unpacked")
    facts = check_list(tmp_path / "unpacked")
    assert facts["data_license"] == "CC0 1.0" and "recordings" in facts["codec_license"]
    assert set(facts["made_with"]) == {"espnet_ext", "python", "espnet", "torch", "safetensors"}
    results = (tmp_path / "unpacked" / "RESULTS.md").read_text()
    assert TABLE in results and "secret" not in results and "![" not in results


@pytest.mark.parametrize(("dtype", "share", "error"), [("float16", 0.75, 1e-3), ("int8", 0.65, 0.5 / 127)])
def test_fewer_bytes_say_nearly_the_same(
    dtype: str, share: float, error: float, experiment: Path, voice: Path, tmp_path: Path
) -> None:
    from espnet_ext.inference import Speaker
    from espnet_ext.sharing.pack import pack

    pack(experiment, tmp_path / "small.zip", dtype=dtype)
    assert (tmp_path / "small.zip").stat().st_size < share * voice.stat().st_size
    whole, small = (Speaker.from_pretrained(path).corelm.state_dict() for path in (voice, tmp_path / "small.zip"))
    for name, weight in whole.items():
        assert small[name].dtype == weight.dtype
        if weight.is_floating_point():
            row = weight.abs().amax(-1, keepdim=True) if weight.ndim else weight.abs()
            assert ((small[name] - weight).abs() <= error * row * 1.001 + 1e-7).all(), name


def test_what_espnet_packs_is_read_under_any_name_of_the_weights(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet2.bin import pack as espnet_pack

    from espnet_ext.inference import Speaker

    shutil.copytree(experiment, tmp_path / "exp" / "model")
    model = tmp_path / "exp" / "model"
    (average,) = model.glob("*.ave.pth")
    average.rename(model / "best.pth")
    monkeypatch.chdir(tmp_path)
    arguments = ["tts", "--train_config", "exp/model/config.yaml", "--model_file", "exp/model/best.pth"]
    options = [
        word for path in sorted((model / "codec").iterdir()) for word in ("--option", f"exp/model/codec/{path.name}")
    ]
    monkeypatch.setattr(sys, "argv", ["pack"])
    espnet_pack.main([*arguments, *options, "--outpath", "espnet.zip"])
    expected = Speaker.from_experiment(experiment)("abba", **HOW).codes
    assert np.array_equal(Speaker.from_pretrained(tmp_path / "espnet.zip")("abba", **HOW).codes, expected)


def rewritten(voice: Path, target: Path, change: dict[str, bytes | None]) -> Path:
    """A copy of a packed voice with some files exchanged, added or left out."""
    with zipfile.ZipFile(voice) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            content = change.get(info.filename, source.read(info.filename))
            if content is not None:
                copy.writestr(info.filename, content)
        for name in set(change) - {info.filename for info in source.infolist()}:
            copy.writestr(name, change[name] or b"")
    return target


def test_a_changed_missing_or_further_file_is_named(voice: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import say

    with zipfile.ZipFile(voice) as archive:
        config = archive.read("config.yaml")
    for change, expected in (
        ({"config.yaml": config + b"\n"}, "config.yaml must hold what voice.json vouches for"),
        ({"config.yaml": None}, "it misses 'config.yaml'"),
        (
            {"decode/decode_parallel.yaml": b"decoding: parallel"},
            "its list does not know, 'decode/decode_parallel.yaml'",
        ),
        ({VOICE_NAME: b"[" * 100_000}, "must be a list of a voice's files"),
    ):
        hostile = rewritten(voice, tmp_path / f"{len(list(tmp_path.iterdir()))}.zip", change)
        assert expected in one_error(say.main, hostile, "abba", "-o", tmp_path / "x.wav")
    assert not (tmp_path / "x.wav").exists()


def test_every_flipped_byte_of_a_packed_voice_is_told(voice: Path, tmp_path: Path) -> None:
    """Or changes nothing, as in the time of a file."""
    good = tmp_path / "good"
    unpack_zip(voice, good)
    content, rng = voice.read_bytes(), np.random.default_rng(0)
    for number in range(40):
        broken = bytearray(content)
        broken[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "bad.zip").write_bytes(broken)
        try:
            unpack_zip(tmp_path / "bad.zip", tmp_path / f"bad{number}")
            check_list(tmp_path / f"bad{number}")
        except UserError:
            continue
        for file in good.rglob("*"):
            other = tmp_path / f"bad{number}" / file.relative_to(good)
            assert file.is_dir() or other.read_bytes() == file.read_bytes()


def info_of(name: str, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out", "C:out", "a\nb", "config.yaml"])
def test_a_name_that_leads_elsewhere_or_comes_twice_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(info_of("config.yaml"), "a")
        with (
            pytest.warns(UserWarning, match="Duplicate name") if name == "config.yaml" else pytest.MonkeyPatch.context()
        ):
            archive.writestr(info_of(name), "b")
    with pytest.raises(UserError, match="bad.zip must be a whole zip archive"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "inner" / "place")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.zip", "inner"]


def test_links_bombs_and_what_is_no_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info_of("config.yaml", stat.S_IFLNK), "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50 * 2**20))
    (tmp_path / "text.zip").write_text("no archive")
    for name, reason in (
        ("link", "is no plain file"),
        ("bomb", "its files would have 52428800 bytes"),
        ("text", "not a zip"),
    ):
        with pytest.raises(UserError, match=reason):
            unpack_zip(tmp_path / f"{name}.zip", tmp_path / "place")
    assert not (tmp_path / "place").exists()


def test_a_wrong_checksum_or_nothing_of_that_name_is_one_line(voice: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import say

    server = served(voice.parent)
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        for source, expected in (
            (f"{address}/voice.zip#sha256={'0' * 64}", "arrived damaged and was removed"),
            (f"{address}/voice.zip#sha256=12", "#sha256= and 64 digits"),
            (f"{address}/none.zip", "cannot download"),
            (f"{address}/RESULTS.md", "it is no zip archive"),
            (tmp_path / "none.zip", "voice not found"),
        ):
            assert expected in one_error(say.main, source, "abba", "-o", tmp_path / "x.wav")
    finally:
        server.shutdown()
        server.server_close()
    assert "voice not found" in one_error(say.main, "mimi", "abba", "-o", tmp_path / "x.wav")


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
        self.answer({"id": "me/voice", "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

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
    upload.main([str(voice), "me/voice", "--endpoint", address])
    with zipfile.ZipFile(voice) as archive:
        assert set(sent) == {*archive.namelist(), "README.md"}
    card = sent["README.md"].decode()
    assert card.startswith("---\n") and TABLE in card and "CC0 1.0" in card and "from_pretrained" in card
    for name, content in sent.items():  # as somebody else gets it, with what a hub adds
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    (tmp_path / "got" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    expected = Speaker.from_experiment(experiment)("abba", **HOW).codes
    assert np.array_equal(Speaker.from_pretrained(tmp_path / "got")("abba", **HOW).codes, expected)


def test_a_hubs_name_is_fetched_or_says_why_not(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is an extra")
    from espnet_ext.bin import say
    from espnet_ext.storage.pretrained import pretrained

    asked = []

    def fetch(repo: str, revision: str | None) -> str:
        asked.append((repo, revision))
        if repo != "me/voice":
            raise hub.errors.LocalEntryNotFoundError("no network")
        return str(tmp_path / "snapshot")

    unpack_zip(voice, tmp_path / "snapshot")
    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert pretrained("me/voice@v1.0").directory == tmp_path / "snapshot"
    error = one_error(say.main, "exp/none", "abba", "-o", tmp_path / "x.wav")
    assert error == "error: there is no directory exp/none here, and the hub has none to fetch: no network"
    assert asked == [("me/voice", "v1.0"), ("exp/none", None)]


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
