"""A dask cluster of separate processes: killed or interrupted, tokenization gives what it gives undisturbed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fabricated import one_error

pytest.importorskip("pyworld")
pytest.importorskip("distributed")

from espnet_ext.bin import cluster_keys, codec_fit, codec_tokens
from espnet_ext.data.datadir import write_data_dir
from espnet_ext.jobs.cluster_keys import cluster_security, keys_directory

pytestmark = pytest.mark.recipe
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SHARDS = 6
TOKENS = ["--codec_info", "codec/codec_info.yaml", "--data_dir", "data"]
AT_ONCE = """
import functools
from espnet_ext.bin import codec_tokens, run
from espnet_ext.jobs import Workers

if __name__ == "__main__":
    codec_tokens.Workers = functools.partial(Workers, startup_seconds=0)  # it would take a longer corpus otherwise
    run(codec_tokens.main)
"""
TABLES = ["codes.ark", "codes.scp", "prompt.scp", "utt2num_frames", "skipped", "wav.scp", "text", "utt2spk"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of a few recordings under many names, a codec, and the codes that one process makes of them."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = np.random.default_rng(0)
    for index in range(4):
        clock = np.arange(16000 + 2000 * index) / 16000
        tone = sum(np.sin(2 * np.pi * (100 + 30 * index) * k * clock) / k for k in range(1, 30))
        soundfile.write(folder / f"{index}.wav", 0.1 * tone + 0.01 * rng.standard_normal(len(clock)), 16000)
    utterances = [f"a-{number:03d}" for number in range(codec_tokens.SHARD_SIZE * (SHARDS - 1))]
    wavs = {one: folder / f"{number % 4}.wav" for number, one in enumerate(utterances)}
    wavs["a-070"] = folder / "gone.wav"
    write_data_dir(folder / "data", wavs, dict.fromkeys(wavs, "words"), dict.fromkeys(wavs, "a"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few = folder / "few.scp"
        few.write_text("".join(f"{index} {folder / str(index)}.wav\n" for index in range(4)))
        codec_fit.main(["--wav_scp", str(few), "--codec_conf", "codebook_size=8", "--out", "codec"])
        codec_tokens.main([*TOKENS, "--out", "alone"])
    return folder


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A test run that was started in the background ignores Ctrl-C, and hands that down to what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(folder: Path, *line: str) -> subprocess.Popen[str]:
    """Run a module; what it says goes to a file named after it, commands share one."""
    name = line[0].rpartition(".")[2] if line[0].startswith("distributed") else "command"
    with (folder / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *line], cwd=folder, env={**os.environ, **ENVIRONMENT},
            stdout=log, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if what():
            return
        assert process.poll() is None, "it ended too early"
        time.sleep(0.05)
    raise AssertionError("too slow")


@contextmanager
def dask(corpus: Path, protocol: str, workers: int, *keys: str) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and workers in processes of their own, which nobody replaces."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, there = f"{protocol}://127.0.0.1:{port}", ["--protocol", protocol, "--no-dashboard", *keys]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), *there]
    worker = ["distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", *there]
    everything = [start(corpus, *scheduler)]
    everything += [start(corpus, *worker, "--local-directory", str(corpus / "dask")) for _ in range(workers)]
    try:
        yield address, everything[1:]
    finally:
        for process in everything[::-1]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(corpus: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A cluster as anybody can use it."""
    with dask(corpus, "tcp", 2) as there:
        yield there


def finished_shards(out: Path) -> set[str]:
    folder = out / "shards"
    return {path.name for path in folder.glob("0*")} if folder.is_dir() else set()


def assert_same(corpus: Path, out: str) -> None:
    for name in TABLES:
        expected = (corpus / "alone" / name).read_bytes().replace(b"alone/", f"{out}/".encode())
        assert (corpus / out / name).read_bytes() == expected, name
    left = [path.name for path in (corpus / out).iterdir() if path.name == "shards" or path.name.startswith(".")]
    assert sorted(left) == [".finished.json", ".made.json"]


def log_of(corpus: Path) -> str:
    return (corpus / "command.log").read_text()


def test_a_worker_that_is_killed_changes_nothing(
    corpus: Path, cluster: tuple[str, list[subprocess.Popen[str]]]
) -> None:
    address, workers = cluster
    command = start(corpus, "espnet_ext.bin.codec_tokens", *TOKENS, "--out", "killed", "--dask_scheduler", address)
    wait_until(lambda: len(finished_shards(corpus / "killed")) >= 2, command)
    workers[0].send_signal(signal.SIGKILL)
    assert workers[0].wait() == -signal.SIGKILL
    assert len(finished_shards(corpus / "killed")) < SHARDS  # else it came too late
    assert command.wait(timeout=100) == 0, log_of(corpus)
    assert_same(corpus, "killed")
    assert "1 missing wav (a-070)" in log_of(corpus)


@pytest.mark.parametrize("where", ["here", "processes", "cluster"])
def test_a_run_that_ctrl_c_interrupted_continues(
    corpus: Path, cluster: tuple[str, list[subprocess.Popen[str]]], where: str
) -> None:
    workers = {"here": [], "processes": ["--nj", "2"], "cluster": ["--dask_scheduler", cluster[0]]}[where]
    (corpus / "at_once.py").write_text(AT_ONCE)
    program = "at_once" if where == "processes" else "espnet_ext.bin.codec_tokens"
    line = [program, *TOKENS, "--out", where, *workers]
    command = start(corpus, *line)
    wait_until(lambda: len(finished_shards(corpus / where)) >= 2, command)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    assert command.wait(timeout=30) == 130, log_of(corpus)
    assert not Path(f"/proc/{command.pid}").exists()
    assert not (corpus / where / "codes.scp").exists()
    assert not re.search("Traceback|tcp:|Nanny", log_of(corpus))
    made = {path.name: path.stat().st_mtime_ns for path in (corpus / where / "shards").glob("0*")}
    assert 2 <= len(made) < SHARDS
    again = start(corpus, *line)
    wait_until(lambda: len(finished_shards(corpus / where)) > len(made), again)
    for name, when in made.items():
        assert (corpus / where / "shards" / name).stat().st_mtime_ns == when
    assert again.wait(timeout=100) == 0, log_of(corpus)
    assert re.search(rf"{where}/shards: [2-5] of {SHARDS} shards were finished earlier", log_of(corpus))
    assert_same(corpus, where)


def test_a_cluster_with_keys_does_the_work_and_takes_none_from_others(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import distributed
    from distributed.security import Security

    if importlib.util.find_spec("cryptography") is None and shutil.which("openssl") is None:
        pytest.skip("keys are made by cryptography or openssl, and neither is there")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    cluster_keys.main([])
    scheduler_line, worker_line = capsys.readouterr().out.splitlines()
    keys = scheduler_line.split("--port 8786 ")[1].split()
    assert worker_line.endswith(" ".join(keys)) and keys[::2] == ["--tls-ca-file", "--tls-cert", "--tls-key"]
    with dask(corpus, "tls", 1, *keys) as (address, _):
        line = ["espnet_ext.bin.codec_tokens", *TOKENS, "--dask_scheduler", address, "--out", "tls"]
        (corpus / "command.log").unlink(missing_ok=True)
        assert start(corpus, *line).wait(timeout=100) == 0, log_of(corpus)
        assert "without TLS" not in log_of(corpus)
        assert_same(corpus, "tls")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        told = f"error: keys of the cluster not found: {tmp_path / 'other/espnet_ext/cluster'} (python -m espnet_ext"
        monkeypatch.chdir(corpus)
        assert one_error(codec_tokens.main, *line[1:], "--force").startswith(told)
        cluster_keys.main([])
        stranger = cluster_security(keys_directory())
        plain = address.replace("tls", "tcp")
        for place, security in ((address, stranger), (plain, Security(require_encryption=False))):
            with pytest.raises((OSError, TimeoutError)):
                distributed.Client(place, timeout="3s", set_as_default=False, security=security)
        context = ssl.create_default_context(cafile=keys[1])
        context.check_hostname = False
        host, port = address.removeprefix("tls://").split(":")
        plug = socket.create_connection((host, int(port)), timeout=9)
        # the scheduler is the one that is meant, and is not told who asks
        with pytest.raises(ssl.SSLError, match="(?i)certificate.required"), context.wrap_socket(plug) as connection:
            connection.recv(1)
