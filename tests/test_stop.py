"""A signal to run.sh reaches its job at once, and nothing that was started runs on."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from test_recipes import DATA, Recipe, copy_recipes

# what a job may be: a shell, and children of it that nobody waits for
SLOW = """
sleep 87 & (sleep 86; sleep 86) & touch "${0%/*}/begun"
sleep 88 | cat
"""
STUBBORN = """bash -c "trap '' TERM; sleep 2; sleep 85" &"""
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def start(recipe: Recipe, *options: str) -> subprocess.Popen[str]:
    command = [str(recipe.directory / "run.sh"), "--python", str(recipe.recorder), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # in a session of its own: the signal is for run.sh alone, as from a scheduler
    return subprocess.Popen(command, cwd=recipe.root, start_new_session=True, **pipes)


def wait_until(begun: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while not begun.exists():
        assert time.monotonic() < until and process.poll() is None, begun
        time.sleep(0.02)
    time.sleep(0.2)


def stop(process: subprocess.Popen[str], number: int) -> str:
    """What it says."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3
    sent = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - sent < 12
    running = [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not running, "an orphan"
    assert process.returncode == STATUS[signal.Signals(number)]
    return error


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_ends_the_job_that_the_shell_waits_for(tmp_path: Path, number: int) -> None:
    recipe = copy_recipes(tmp_path, "fsdd")
    script = recipe.directory / "local" / "data.sh"
    script.write_text(DATA + SLOW)
    with start(recipe) as process:
        wait_until(script.with_name("begun"), process)
        error = stop(process, number)
    assert error.splitlines()[-1] == "error: stopped in stage data; the same command continues there"
    assert not list(recipe.directory.rglob(".running"))
    script.write_text(DATA)
    recipe.run("--stop_stage", "data")


def test_a_signal_ends_jobs_that_run_side_by_side(tmp_path: Path) -> None:
    recipe = copy_recipes(tmp_path, "fsdd")
    recipe.run("--stop_stage", "stats")
    begun = recipe.recorder.with_name("begun")
    told = recipe.recorder.read_text()
    slow = f"if [[ $* == *codec_lm_train* && $* != *--collect_stats* ]]; then {STUBBORN}{SLOW}fi\n"
    recipe.recorder.write_text(told.replace("here=$(", slow + "here=$(", 1))
    with start(recipe, "--stage", "train", "--base_config", "", "--max_parallel_train", "2") as process:
        wait_until(begun, process)
        error = stop(process, signal.SIGTERM)
    assert error.splitlines()[-1] == "error: stopped in stage train; the same command continues there"
    recipe.recorder.write_text(told)
    recipe.run("--stage", "train", "--stop_stage", "train", "--base_config", "")
    assert not [path for path in recipe.directory.glob("exp/*") if ".old" in path.name], "it continues"


def test_a_signal_is_heard_while_the_record_of_a_large_corpus_is_read(tmp_path: Path) -> None:
    recipe = copy_recipes(tmp_path, "fsdd")
    told = recipe.recorder.read_text()
    slow = f"if [[ $* == */finished.py* ]]; then {SLOW}fi\n"
    recipe.recorder.write_text(told.replace("if [[", slow + "if [[", 1))
    with start(recipe) as process:
        wait_until(recipe.recorder.with_name("begun"), process)
        stop(process, signal.SIGTERM)
    assert not list(recipe.directory.rglob(".running")) + list(recipe.directory.rglob(".answer"))
