"""Voices in one file: they speak elsewhere with the very codes, and no damaged or hostile one gets anywhere."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fabricated import TABLE, one_error

from espnet_ext.errors import UserError
from espnet_ext.storage.checksums import content_hash
from espnet_ext.storage.pretrained import DEFAULT_VOICE, pretrained
from espnet_ext.storage.voice_files import VOICE_NAME, check_list
from espnet_ext.storage.zip_files import unpack_zip, write_zip

pytestmark = pytest.mark.espnet
HOW = {"decoding": "local_ar", "maxlenratio": 2.0, "seed": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def test_a_corpus_and_the_page_are_spoken_with_a_packed_voice_too(
    experiment: Path, voice: Path, corpus: Path, tmp_path: Path
) -> None:
    from espnet_ext.bin import codec_lm_inference, demo
    from espnet_ext.data.ark import read_codes

    def line(source: object, place: Path) -> list[str]:
        options = ["--exp", source, "--data_dir", corpus / "dev", "--output_dir", place, "--decoding", "local_ar"]
        return [str(word) for word in options]

    server = served(voice.parent)
    address = f"http://127.0.0.1:{server.server_port}/voice.zip#sha256={content_hash(voice)}"
    try:
        for number, source in enumerate((experiment, voice, address)):
            codec_lm_inference.main(line(source, tmp_path / str(number)))
        args = demo.get_parser().parse_args(["--exp", str(voice), "--exp", address, "--exp", str(experiment)])
        models = demo.find_models(args)
    finally:
        server.shutdown()
        server.server_close()
    expected, *others = (read_codes(tmp_path / str(number) / "codes.scp", 8) for number in range(3))
    for other in others:
        assert list(other) == list(expected) and all(np.array_equal(other[utt], expected[utt]) for utt in expected)
    assert list(models) == ["S = 2: voice.zip", f"S = 2: {experiment.name}"]
    kept = one_error(codec_lm_inference.main, *line(voice, tmp_path / "kept"), "--keep_config")
    assert "keep_config must be left out with a packed voice" in kept


def test_a_directory_comes_before_a_voice_of_its_name_that_comes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrained(DEFAULT_VOICE).directory.is_absolute()
    Path(DEFAULT_VOICE).mkdir()
    assert pretrained(DEFAULT_VOICE).directory == Path(DEFAULT_VOICE)


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
            row = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) if weight.ndim > 1 else weight.abs()
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
        ({VOICE_NAME: b'{"format": "espnet_ext voice 1", "files": {}, "made_with": []}'}, "versions in made_with"),
        ({VOICE_NAME: None}, "must hold voice.json or ESPnet's meta.yaml"),
        ({"codec/.hidden": b"x"}, "does not know, 'codec/.hidden'"),
    ):
        hostile = rewritten(voice, tmp_path / f"{len(list(tmp_path.iterdir()))}.zip", change)
        assert expected in one_error(say.main, hostile, "abba", "-o", tmp_path / "x.wav")
    assert not (tmp_path / "x.wav").exists()


def test_a_flipped_bit_of_a_packed_voice_is_told(voice: Path, tmp_path: Path) -> None:
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
    def archive(name: str, info: zipfile.ZipInfo, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", method) as file:
            file.writestr(info, content, compress_type=method)

    archive("link", info_of("config.yaml", stat.S_IFLNK), b"/etc/passwd")
    archive("bomb", info_of("zeros"), bytes(50 * 2**20))
    archive("lzma", info_of("zeros"), bytes(2**20), zipfile.ZIP_LZMA)
    archive("lie", info_of("zeros"), bytes(2**20))
    lie = (tmp_path / "lie.zip").read_bytes().replace((2**20).to_bytes(4, "little"), (2**10).to_bytes(4, "little"))
    (tmp_path / "lie.zip").write_bytes(lie)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as file:
        file.writestr(info_of("a"), "a")
        file.writestr(info_of("a/b"), "b")
    (tmp_path / "text.zip").write_text("no archive")
    for name, reason in (
        ("link", "is no plain file"),
        ("bomb", "its files would have 52428800 bytes"),
        ("lzma", "another method than deflate"),
        ("lie", "Bad CRC-32"),
        ("both", "is a file and a directory"),
        ("text", "not a zip"),
    ):
        with pytest.raises(UserError, match=reason):
            unpack_zip(tmp_path / f"{name}.zip", tmp_path / "place")
    assert not (tmp_path / "place").exists()


def test_an_archive_in_an_archive_is_not_unpacked(voice: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    shutil.copyfile(voice, tmp_path / "outer" / "voice.zip")
    write_zip(tmp_path / "outer", tmp_path / "outer.zip")
    with pytest.raises(UserError, match=r"must hold voice.json or ESPnet's meta.yaml"):
        pretrained(tmp_path / "outer.zip")
    assert not list((cache / "espnet_ext" / "voices").iterdir())  # what is refused does not stay
    assert pretrained(tmp_path / "outer").directory.parent == cache / "espnet_ext" / "voices"


def test_what_somebody_changed_in_the_cache_is_unpacked_again(voice: Path) -> None:
    place = pretrained(voice).directory
    expected = (place / "config.yaml").read_bytes()
    (place / "config.yaml").write_text("corelm: other")
    assert pretrained(voice).directory == place and (place / "config.yaml").read_bytes() == expected


def test_a_fresh_voice_is_read_once_and_what_is_unpacked_is_what_was_looked_at(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files were hashed where they were unpacked and again in the cache, and the archive was opened twice."""
    from espnet_ext.storage import voice_files, zip_files

    archive = tmp_path / "voice.zip"
    shutil.copyfile(voice, archive)
    hashed: list[str] = []
    monkeypatch.setattr(voice_files, "content_hash", lambda path: hashed.append(path.name) or content_hash(path))
    check = zip_files._check_members

    def replaced(*arguments: object) -> None:
        (tmp_path / "other").write_text("no archive")
        (tmp_path / "other").replace(archive)
        check(*arguments)

    monkeypatch.setattr(zip_files, "_check_members", replaced)
    place = pretrained(archive).directory
    listed = check_list(place)["files"]
    assert place.name == content_hash(voice) and len(hashed) == 2 * len(listed)  # once, and by this test


def test_what_was_fetched_and_changed_since_is_not_what_its_checksum_says(voice: Path, cache: Path) -> None:
    """The checksum was looked at when the file arrived, and never again."""
    server = served(voice.parent)
    address = f"http://127.0.0.1:{server.server_port}/voice.zip#sha256={content_hash(voice)}"
    try:
        expected = pretrained(address)
        (kept,) = (cache / "espnet_ext" / "downloads").glob("*.zip")
        rewritten(voice, kept, {"config.yaml": b"corelm: other"})
        with pytest.raises(UserError, match="it has another checksum"):
            pretrained(address)
        assert pretrained(address) == expected  # fetched again
    finally:
        server.shutdown()
        server.server_close()


def test_several_processes_unpack_one_voice_at_once(voice: Path, cache: Path) -> None:
    script = f"from espnet_ext.storage.pretrained import pretrained; print(pretrained({str(voice)!r}).directory)"
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {process.communicate()[0] for process in processes}
    assert all(process.returncode == 0 for process in processes) and len(told) == 1
    assert len(list((cache / "espnet_ext" / "voices").iterdir())) == 1


def test_what_is_no_option_is_a_text_unless_it_names_a_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet_ext.bin.say import who_says_what

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    long = "two red dogs " * 40
    for words in (["dogs"], [long], ["either one / or two"], ["two dogs", "one cat"], [""], []):
        assert who_says_what(words, has_file=False) == (None, words), words
    for name in ("model", "exp/none", "none.zip", "owner/name"):
        assert who_says_what([name, long], has_file=False) == (name, [long])
        assert who_says_what([name], has_file=True) == (name, [])
    assert who_says_what(["misspelt", "dogs"], has_file=False) == ("misspelt", ["dogs"])


def test_a_wrong_checksum_or_nothing_of_that_name_is_one_line(voice: Path, tmp_path: Path) -> None:
    from espnet_ext.bin import say

    server = served(voice.parent)
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        for source, expected in (
            (f"{address}/voice.zip#sha256={'0' * 64}", "arrived damaged and was removed"),
            (f"{address}/voice.zip#sha256=12", "#sha256= and 64 digits"),
            (f"{address}/none.zip", "cannot download"),
            (f"{address}/stimme ü.zip", "cannot download"),
            ("http://[::1/x.zip", "voice must be an address"),
            (f"{address}/RESULTS.md", "it is no zip archive"),
            (tmp_path / "none.zip", "voice not found"),
        ):
            assert expected in one_error(say.main, source, "abba", "-o", tmp_path / "x.wav")
    finally:
        server.shutdown()
        server.server_close()
    assert "voice not found" in one_error(say.main, "mimi", "abba", "-o", tmp_path / "x.wav")
