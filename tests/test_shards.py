"""Shards: equal results whoever does the work and whatever happens meanwhile, and nothing done twice."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shard_work

from espnet_ext import __version__
from espnet_ext.errors import UserError
from espnet_ext.jobs import Work, Workers, cut, remove_shards, run_shards
from espnet_ext.jobs.cluster_keys import cluster_security, make_keys
from espnet_ext.jobs.secret import user_key
from espnet_ext.jobs.workers import _make_elsewhere, _warn_of_others

ROOT = Path(__file__).resolve().parent.parent
ITEMS = {f"u-{number:02d}": number for number in range(11)}
SQUARES = {key: value**2 for key, value in ITEMS.items()}
AT_ONCE = Workers(nj=2, startup_seconds=0)
ENOSPC = """
import resource, sys
from pathlib import Path
import shard_work
from espnet_ext.bin import run
from espnet_ext.jobs import Work, Workers, run_shards

def main():
    work = Work(shard_work.much, {}, "fill", 2, first=2)
    list(run_shards(work, {f"u-{n}": n for n in range(11)}, Path("out"), Workers(int(sys.argv[1]), startup_seconds=0)))

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    run(main)
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("out")


def work(function: Callable[..., Any] = shard_work.squares, **options: Any) -> Work[Any, Any]:
    return Work(function, options.pop("request", {"seed": 0}), "test", 2, first=2, **options)


def results(some: Work[Any, Any], workers: Workers | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    for ids, result in run_shards(some, ITEMS, Path("out"), workers or Workers()):
        assert list(result) == ids
        found |= result
    return found


def calls() -> list[str]:
    """The shards that were made since the last look, in the order of their first items."""
    path = Path("calls")
    lines = sorted(path.read_text().splitlines()) if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def processes() -> list[Any]:
    return multiprocessing.active_children()


def test_results_come_in_order_and_finished_shards_stay_until_they_are_removed(directory: Path) -> None:
    assert results(work()) == SQUARES
    assert calls() == ["u-00 u-01", "u-02 u-03", "u-04 u-05", "u-06 u-07", "u-08 u-09", "u-10"]
    assert results(work()) == SQUARES
    assert calls() == []
    (directory / "sub").mkdir()
    (directory / "sub" / ".a.x1.tmp.wav").touch()  # of a worker that was killed
    (directory / "sub" / "a.wav").touch()
    remove_shards(directory)
    assert [str(path) for path in directory.rglob("*")] == ["out/sub", "out/sub/a.wav"]


def key_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def test_a_shard_that_another_user_left_is_never_unpickled(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key_at(Path("theirs"), monkeypatch)
    list(run_shards(work(shard_work.harmful), ITEMS, directory, Workers()))
    assert Path("ran").is_dir()
    Path("ran").rmdir()
    key_at(Path("ours"), monkeypatch)
    caplog.set_level("INFO")
    names = sorted(path.name for path in (directory / "shards").iterdir())
    shards = cut(work(shard_work.harmful), ITEMS, directory)
    assert names == [shard.path.name for shard in shards] and not any(shard.is_finished() for shard in shards)
    with pytest.raises(OSError, match="shard is damaged: .*; the same command makes it again"):
        shards[0].result()
    assert not Path("ran").exists()
    list(run_shards(work(shard_work.harmful), ITEMS, directory, Workers()))
    assert (
        "out/shards: 6 shards are made again, as they are damaged, of files that have changed, or another"
        in caplog.text
    )


def test_the_key_of_shards_is_made_once_for_its_user_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key_at(Path("home"), monkeypatch)
    results(work())
    key = Path("home/espnet_ext/shards.key")
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.iterdir()] == ["shards.key"]
    assert key.read_bytes() not in b"".join(path.read_bytes() for path in (directory / "shards").iterdir())
    key.chmod(0o644)
    user_key.cache_clear()
    with pytest.raises(UserError, match="shards.key must be 32 bytes that only you can read: remove it"):
        results(work())
    Path("file").touch()
    key_at(Path("file"), monkeypatch)
    assert results(work()) == SQUARES
    assert "what is finished now will not be found by a later command" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "link", "sparse"])
def test_what_is_no_file_of_ours_is_replaced_without_being_read(directory: Path, kind: str) -> None:
    results(work())
    calls()
    shard = sorted((directory / "shards").iterdir())[1]
    shard.unlink()
    if kind == "pipe":
        os.mkfifo(shard)  # nobody will ever write to it
    elif kind == "link":
        shard.symlink_to("/dev/zero")
    else:
        shard.touch()
        os.truncate(shard, 2**40)
    assert results(work()) == SQUARES
    assert calls() == ["u-02 u-03"]


def test_a_link_to_another_directory_is_not_emptied(directory: Path) -> None:
    Path("precious").mkdir()
    Path("precious/file").touch()
    directory.mkdir()
    (directory / "shards").symlink_to(Path("precious").absolute())
    with pytest.raises(
        UserError, match="out/shards must be a directory of its own, whose files are removed, got a link"
    ):
        results(work())
    assert Path("precious/file").exists()


def test_a_run_that_failed_continues_with_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    Path("broken").touch()
    with pytest.raises(ValueError, match="item must not be 7, got 7"):
        results(work(shard_work.fail_at_7))
    assert len(calls()) == 3
    Path("broken").unlink()
    caplog.set_level("INFO")
    assert results(work(shard_work.fail_at_7)) == SQUARES
    assert calls() == ["u-06 u-07", "u-08 u-09", "u-10"]
    assert "out/shards: 3 of 6 shards were finished earlier" in caplog.text


def test_shards_of_another_request_are_discarded(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    results(work())
    calls()
    caplog.set_level("INFO")
    assert results(work(request={"seed": 1})) == SQUARES
    assert len(calls()) == 6
    assert "out/shards: 6 shards of another request were discarded" in caplog.text
    assert len(list((directory / "shards").iterdir())) == 6


@pytest.mark.parametrize("content", [b"", b"{}\n", b"half", None])
def test_a_damaged_shard_is_made_again(directory: Path, content: bytes | None) -> None:
    results(work())
    calls()
    shard = sorted((directory / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1] if content is None else content)
    assert results(work()) == SQUARES
    assert calls() == ["u-02 u-03"]


def test_a_shard_is_made_again_when_a_file_of_it_changes() -> None:
    for number in ITEMS.values():
        Path(f"{number}.wav").write_text("audio")
    reading = work(files=name_of)
    results(reading)
    calls()
    Path("3.wav").write_text("other audio")
    Path("10.wav").unlink()
    assert results(reading) == SQUARES
    assert calls() == ["u-02 u-03", "u-10"]


def name_of(number: int) -> list[str]:
    return [f"{number}.wav"]


def test_shards_depend_on_items_and_request_alone(directory: Path) -> None:
    names = [shard.path.name for shard in cut(work(), ITEMS, directory)]
    assert names == [shard.path.name for shard in cut(work(), dict(ITEMS), Path("elsewhere"))]
    changed = [shard.path.name for shard in cut(work(), {**ITEMS, "u-03": 33}, directory)]
    assert [one == other for one, other in zip(names, changed, strict=True)] == [True, False, True, True, True, True]


def test_processes_are_not_started_for_work_that_takes_less_time_than_they_need() -> None:
    quick = {pid for _, (pid, _, _) in run_shards(work(shard_work.process), ITEMS, Path("out"), Workers(nj=4))}
    assert quick == {os.getpid()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nj": 0}, "nj must be at least 1, got 0"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"scheduler": "localhost"}, "dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got 'localhost'"),
        (
            {"scheduler": "http://localhost:8786"},
            "dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got 'http://localhost:8786'",
        ),
    ],
)
def test_impossible_workers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workers(**options)


def test_a_worker_says_when_it_is_another_version_or_sees_other_files(directory: Path) -> None:
    shard = cut(work(), ITEMS, directory)[0]
    with pytest.raises(ValueError, match=f"must have espnet_ext 0.0, got {__version__}"):
        _make_elsewhere(shard, os.getcwd(), "0.0", 1)
    for place in (os.getcwd(), "/nowhere/at/all"):
        with pytest.raises(
            OSError, match=rf"cannot see {place}/out/shards: the machines of --dask_scheduler must share"
        ):
            _make_elsewhere(shard, place, __version__, 1)
    assert not directory.exists()


@pytest.mark.espnet
def test_several_processes_change_nothing_and_end_with_the_work() -> None:
    assert results(work(shard_work.slow_squares), AT_ONCE) == SQUARES
    assert len(calls()) == 6
    assert processes() == []


@pytest.mark.espnet
def test_more_shards_than_processes_are_all_made_and_nobody_else_can_reach_those(tmp_path: Path) -> None:
    """Dask's local workers listened on a port of this machine, and ran what any user sent there."""
    many = {str(number): number for number in range(40)}
    made = list(run_shards(work(shard_work.process), many, Path("out"), AT_ONCE))
    assert [one for ids, _ in made for one in ids] == list(many)
    pids = {pid for _, (pid, _, _) in made}
    assert len(pids) == 2 and os.getpid() not in pids
    assert all(deaf for _, (_, deaf, _) in made)  # Ctrl-C is the business of the process that started them
    assert not any(listening for _, (_, _, listening) in made)


@pytest.mark.espnet
def test_more_shards_than_a_cluster_is_given_at_a_time_are_all_made(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("espnet_ext.jobs.workers.AHEAD", 1)
    many = {str(number): number for number in range(40)}
    place = {"host": "127.0.0.1", "dashboard_address": ":0", "worker_dashboard_address": ":0", "processes": False}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, protocol="tcp", **place) as cluster:
        workers = Workers(scheduler=cluster.scheduler_address)
        made = list(run_shards(work(shard_work.squares), many, Path("out"), workers))
    assert [one for ids, _ in made for one in ids] == list(many)


@pytest.mark.espnet
def test_a_process_uses_the_memory_of_freed_tensors_again() -> None:
    """Dask's setting of malloc made EnCodec take twice as long: 4,096 pages were fetched for each of these tensors."""
    made = list(run_shards(work(shard_work.page_faults), ITEMS, Path("out"), AT_ONCE))
    assert sorted(faults for _, faults in made)[0] < 50 * 4096


@pytest.mark.espnet
def test_an_error_in_a_process_ends_the_run_and_the_other_processes() -> None:
    Path("broken").touch()
    with pytest.raises(ValueError, match="item must not be 7, got 7"):
        results(work(shard_work.fail_at_7), AT_ONCE)
    assert processes() == []
    before = calls()
    Path("broken").unlink()
    assert results(work(shard_work.fail_at_7)) == SQUARES
    assert sorted(before + calls()) == ["u-00 u-01", "u-02 u-03", "u-04 u-05", "u-06 u-07", "u-08 u-09", "u-10"]


@pytest.mark.espnet
def test_a_killed_process_is_replaced_and_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Path("broken").touch()
    assert results(work(shard_work.die_at_7), AT_ONCE) == SQUARES
    assert not Path("broken").exists()
    assert calls() == ["u-00 u-01", "u-02 u-03", "u-04 u-05", "u-06 u-07", "u-08 u-09", "u-10"]
    assert not [line for line in capfd.readouterr().err.splitlines() if "utt" not in line and line.strip()]


@pytest.mark.espnet
def test_a_shard_that_kills_every_process_is_an_error_that_names_it() -> None:
    message = r"shard 000003-\w+ \(2 utterances, u-06 to u-07\) killed its worker 4 times"
    with pytest.raises(OSError, match=message):
        results(work(shard_work.always_die_at_7), AT_ONCE)
    assert processes() == []


@pytest.mark.espnet
@pytest.mark.parametrize("nj", ["1", "2"])
def test_a_full_disk_names_the_shard_and_leaves_whole_shards_only(directory: Path, nj: str) -> None:
    Path("fill.py").write_text(ENOSPC)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "fill.py", nj], env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: [Errno 27] File too large: 'out/shards/000003-")
    made = list((directory / "shards").iterdir())
    assert (3 if nj == "1" else 0) <= len(made) <= 5  # the other process may have done nothing yet
    assert not [path for path in made if path.name.startswith((".", "000003"))]


# --- keys of clusters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["cryptography", "openssl"])
def test_keys_are_for_their_user_alone(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    if maker == "cryptography":
        pytest.importorskip("cryptography")
    else:
        monkeypatch.setitem(sys.modules, "cryptography", None)
        if shutil.which("openssl") is None:
            pytest.skip("there is no program openssl")
    place = tmp_path / "user" / "cluster"
    with pytest.raises(FileNotFoundError, match=f"keys of the cluster not found: {place} .python -m .*cluster_keys"):
        cluster_security(place)
    make_keys(place)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place, place / "key.pem")}
    assert modes == {"cluster": 0o700, "key.pem": 0o600}
    security = cluster_security(place)
    assert security.require_encryption and security.get_connection_args("client")["ssl_context"]
    first = (place / "key.pem").read_bytes()
    make_keys(place)
    assert (place / "key.pem").read_bytes() != first and list(place.parent.iterdir()) == [place]
    for path in (place, place / "key.pem"):
        path.chmod(0o755)
        with pytest.raises(UserError, match=f"{path} must be only yours to read and write: .* --force makes new keys"):
            cluster_security(place)
        path.chmod(0o700)


def test_without_a_maker_of_keys_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="need cryptography or the program openssl: pip install cryptography"):
        make_keys(tmp_path / "cluster")
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_tls_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_others.cache_clear()
    for _ in range(2):
        _warn_of_others()
    assert caplog.text.count("a cluster without TLS: whoever reaches the ports of its machines runs code as you") == 1
