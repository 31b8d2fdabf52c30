"""Bad options and damaged files: each is one line that names the option or the file, and nothing half-written stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ARCHIVES
from fabricated import one_error

from espnet_ext.bin import run
from espnet_ext.data.datadir import read_scp, write_data_dir, write_scp
from espnet_ext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "egs2" / "mini_libritts"
FSDD = ROOT / "egs2" / "fsdd"
# a disk with room for a list of names but not for speech: no file can grow beyond 20 kB
FULL_DISK = (
    "import resource, runpy, signal, sys\n"
    "import torch\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    "sys.argv = sys.argv[1:]\n"
    "sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
    "module = not sys.argv[0].endswith('.py')\n"
    "(runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name='__main__')\n"
)


def on_a_full_disk(folder: Path, *command: object) -> str:
    """The line that a command ends with when what it writes does not fit."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, command)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]
    return done.stderr.splitlines()[-1]


def tone(seconds: float = 2.0, rate_hz: int = 16000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate_hz)) / rate_hz)


# --- what every command does with an error ---------------------------------------------------------------------------


def raise_in_worker(error: Exception) -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise error
    except Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    wrapped.reraise()


@pytest.mark.parametrize("kind", [UserError, FileNotFoundError])
def test_an_error_of_a_worker_process_is_shortened_to_its_message(kind) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: raise_in_worker(kind("codes of s-1 must be readable at codes.ark:4")))
    assert str(caught.value) == "error: codes of s-1 must be readable at codes.ark:4"


def test_the_traceback_of_a_shortened_error_can_be_had(caplog) -> None:
    with caplog.at_level("DEBUG"), pytest.raises(SystemExit):
        run(lambda: raise_in_worker(UserError("x")))
    assert "Traceback" in caplog.text and "raise_in_worker" in caplog.text


def test_a_defect_is_not_shortened() -> None:
    with pytest.raises(ValueError, match="too many values to unpack"):
        run(lambda: [one for one, two in [(1, 2, 3)]])


def test_an_interrupted_command_exits_as_the_shell_expects() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run(interrupted)
    assert caught.value.code == 130


# --- tables and archives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a/b", "../x"])
def test_an_utterance_id_that_is_a_path_is_neither_read_nor_written(tmp_path: Path, key: str) -> None:
    (tmp_path / "text").write_text(f"{key} one\n")
    with pytest.raises(ValueError, match=r"text:1: a key must not contain '/'"):
        read_scp(tmp_path / "text")
    with pytest.raises(ValueError, match="wav.scp: a key must not contain '/'"):
        write_scp(tmp_path / "wav.scp", {key: "x.wav"})
    assert not (tmp_path / "wav.scp").exists()


def test_a_codes_archive_that_is_cut_anywhere_names_file_and_utterance(tmp_path: Path) -> None:
    pytest.importorskip(ARCHIVES)
    from espnet_ext.data.ark import codes_writer, read_codes

    with codes_writer(tmp_path) as write:
        write("a-1", np.arange(6).reshape(2, 3))
    whole = (tmp_path / "codes.ark").read_bytes()
    codes = read_codes(tmp_path / "codes.scp", 3)
    for length in range(len(whole)):
        (tmp_path / "codes.ark").write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"codes of a-1 must be readable at .*codes\.ark:\d+, got a damaged"
        ) as caught:
            codes["a-1"]
        assert str(caught.value).isprintable()


# --- codecs and token lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("codebook_size=abc", "codebook_size must be an integer of at least 2, got 'abc'"),
        ("band_widths=3", "band_widths must be positive and sum to 24, got 3"),
        ("band_widths=[a, 24]", "band_widths must be positive and sum to 24, got ['a', 24]"),
        ("codebook_size=[", "codec_conf codebook_size must be a yaml value, got '['"),
    ],
)
def test_codec_options_of_the_wrong_kind_are_refused(tmp_path, conf, message) -> None:
    from espnet_ext.bin import codec_fit

    (tmp_path / "wav.scp").write_text("")
    line = ("--wav_scp", tmp_path / "wav.scp", "--out", tmp_path / "codec", "--codec_conf", conf)
    assert message in one_error(codec_fit.main, *line)
    assert not (tmp_path / "codec").exists()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"bandwidth_kbps": "abc"}, "bandwidth_kbps must be one of .*, got 'abc'"),
        ({"num_codebooks": "x", "pretrained": False}, r"num_codebooks must be in \[1, 32\], got 'x'"),
        ({"pretrained": "maybe"}, "pretrained must be true or false, got 'maybe'"),
        ({"checkpoint": "damaged.npz"}, "codec file cannot be read: damaged.npz"),
    ],
)
def test_encodec_options_of_the_wrong_kind_are_refused(tmp_path, monkeypatch, conf, message) -> None:
    from espnet_ext.storage.torchaudio_shim import import_torchaudio
    from espnet_ext.tokenizers.codec import create_codec

    import_torchaudio()  # encodec imports it
    pytest.importorskip("encodec")
    monkeypatch.chdir(tmp_path)
    Path("damaged.npz").write_bytes(b"PK, not really")
    with pytest.raises(ValueError, match=message):
        create_codec("encodec", [], 0, conf)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: [", "config must be a yaml file, got"),
        ("- 1", "config must hold names and values"),
        ("codec_conf: 3", "codec.yaml must hold names and values, got 3"),
    ],
)
def test_a_wrong_codec_yaml_is_one_line(tmp_path, content, message) -> None:
    from espnet_ext.bin import codec_fit

    (tmp_path / "codec.yaml").write_text(content)
    assert message in one_error(codec_fit.main, "--config", tmp_path / "codec.yaml", "--out", tmp_path / "codec")


def test_cut_codec_weights_are_called_damaged_and_a_copy_of_them_is_mended(tmp_path) -> None:
    from espnet_ext.tokenizers.codec import copy_codec, load_codec, save_codec
    from espnet_ext.tokenizers.codec.world_vq import WorldVQCodec

    ones = np.ones(27, dtype=np.float32)
    codec = WorldVQCodec([np.zeros((2, 12), np.float32), np.zeros((2, 96), np.float32)], ones, ones, [24])
    save_codec(codec, "world_vq", tmp_path / "codec", origin={})
    copy_codec(tmp_path / "codec", tmp_path / "exp")
    weights = tmp_path / "exp" / "codec.npz"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"codec.npz must be .*: it is another codec, or the file is damaged"):
        load_codec(tmp_path / "exp")
    copy_codec(tmp_path / "codec", tmp_path / "exp")
    assert load_codec(tmp_path / "exp").spec == codec.spec


@pytest.mark.parametrize("size", [-1, 2, 5])
def test_an_impossible_vocabulary_size_is_one_line(tmp_path, size) -> None:
    pytest.importorskip("sentencepiece")
    from espnet_ext.bin import token_list

    (tmp_path / "text").write_text("a-1 hello world\n")
    files = ("--text", tmp_path / "text", "--bpemodel", tmp_path / "bpe.model", "--out", tmp_path / "tokens.txt")
    error = one_error(token_list.main, *files, "--token_type", "bpe", "--vocab_size", size)
    assert f"vocab_size must fit the text, got {size}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_formatting_in_one_line(tmp_path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    write_data_dir(tmp_path / "data", {"a-1": "a.wav"}, {"a-1": "one"}, {"a-1": "a"})
    error = on_a_full_disk(tmp_path, ROOT / "local" / "format_wav.py", "--in", "data", "--out", "raw", "--fs", 16000)
    assert error.startswith("error: wav cannot be written: raw/wav/a-1.wav")
    assert not list((tmp_path / "raw").rglob("*.wav"))


def test_a_full_disk_stops_unpacking_the_mini_corpus_in_one_line(tmp_path) -> None:
    script = MINI / "codec_lm1" / "local" / "data_prep.py"
    error = on_a_full_disk(tmp_path, script, "--corpus", MINI / "corpus", "--out", "tree", "--size", "tiny")
    assert error.startswith("error: wav cannot be written: ")
    assert not (tmp_path / "tree").exists()


def test_a_full_disk_stops_joining_digits_in_one_line(tmp_path) -> None:
    (tmp_path / "recordings").mkdir()
    for take in range(10):
        soundfile.write(tmp_path / "recordings" / f"3_anna_{take}.wav", tone(1.5, 8000), 8000)
    script = FSDD / "codec_lm1" / "local" / "data_prep.py"
    error = on_a_full_disk(tmp_path, script, "--fsdd", "recordings", "--out", "strings", "--size", "tiny")
    assert error.startswith("error: wav cannot be written: ")
    assert not (tmp_path / "strings").exists()


@pytest.mark.espnet
def test_a_full_disk_stops_say_in_one_line(experiment, tmp_path) -> None:
    (tmp_path / "decode.yaml").write_text("min_frames: 40\n")
    line = (experiment, "abcd", "-o", "out.wav", "--inference_config", "decode.yaml")
    error = on_a_full_disk(tmp_path, "espnet_ext.bin.say", *line)
    assert error.startswith("error: wav cannot be written: out.wav")
    assert not (tmp_path / "out.wav").exists()
