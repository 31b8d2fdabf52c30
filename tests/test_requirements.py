"""The lists of versions fit together, and local/install.sh says in one line what is wrong with a Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = sorted((ROOT / "requirements").glob("lock-*.txt"))
LOCKS = [path for path in LISTS if path.name.startswith("lock-py3")]
HERE = ROOT / "requirements" / f"lock-py{sys.version_info.major}{sys.version_info.minor}.txt"
LEFT_OUT = ROOT / "requirements" / "left-out.in"
INSTALL = ROOT / "local" / "install.sh"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def names(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {normal(line) for line in lines if line and not line.startswith("#")}


def test_every_python_that_the_package_names_has_a_lock() -> None:
    named = re.search(r"for minor in \(([\d, ]+)\)", (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert named
    assert {path.name for path in LOCKS} == {f"lock-py3{minor}.txt" for minor in named[1].split(", ")}


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_a_package_has_one_version_in_the_lists_that_are_installed_together(path: Path) -> None:
    own = versions(path)
    assert own and all(own.values())
    for other in LISTS:
        if other != path and not (path in LOCKS and other in LOCKS):
            both = versions(other)
            assert {name: own[name] for name in own.keys() & both} == {name: both[name] for name in own.keys() & both}


def test_what_the_lock_brings_has_all_that_it_asks_for() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("ESPnet 202511 contradicts torch, and asks for much that nothing imports")
    if not HERE.exists() or "espnet" not in versions(HERE):
        pytest.skip("no lock for this Python")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines() if normal(line.split()[0]) in versions(HERE)]
    complaints = [" ".join(words) for words in lines if normal(words[3].strip(",")) not in names(LEFT_OUT)]
    assert not complaints


def fake_python(path: Path, version: str) -> Path:
    """A program that answers what Python it is, and fails to install anything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$1" != -c ] || {{ echo {version}; exit 0; }}\nexit 1\n')
    path.chmod(0o755)
    return path


def refusal(venv: Path, python: Path | str = "", path: Path | None = None) -> str:
    environment = {**os.environ, "PATH": f"{path}:/usr/bin:/bin" if path else os.environ["PATH"]}
    command = ["bash", str(INSTALL), str(venv), str(python)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_a_python_outside_the_bounds_is_one_line(tmp_path: Path) -> None:
    old = fake_python(tmp_path / "python3.10", "3.10")
    expected = f"error: PYTHON must be a Python of 3.11, 3.12, 3.13, got '{old}' (3.10)"
    assert refusal(tmp_path / "venv", old) == expected
    missing = tmp_path / "nothing"
    assert refusal(tmp_path / "venv", missing) == expected.replace(str(old), str(missing)).replace(
        "(3.10)", "(which does not run)"
    )
    assert not (tmp_path / "venv").exists()


def test_another_python_than_that_of_the_environment_is_one_line(tmp_path: Path) -> None:
    fake_python(tmp_path / "venv/bin/python", "3.11")
    new = fake_python(tmp_path / "python3.13", "3.13")
    wrong = f"PYTHON must be 3.11 as in {tmp_path}/venv, got '{new}' (3.13)"
    assert refusal(tmp_path / "venv", new) == f"error: {wrong}: add VENV=.venv-3.13, or make clean first"


def test_the_first_python_that_runs_and_has_a_lock_is_taken(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12"):  # as the shims of pyenv, which are there for versions that are not in use
        (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / name).chmod(0o755)
    fake_python(tmp_path / "python3.13", "3.13")
    expected = "error: 'python3.13' must have the modules venv and ensurepip (Debian: apt-get install python3.13-venv)"
    assert refusal(tmp_path / "venv", path=tmp_path) == expected
    for name in ("python3.13", "python3"):
        fake_python(tmp_path / name, "3.14")
    assert refusal(tmp_path / "venv", path=tmp_path) == (
        "error: no Python of 3.11, 3.12, 3.13 found: install one, or name it by make PYTHON=/path/to/python3.13"
    )


def test_what_pip_cannot_get_ends_with_what_to_do(tmp_path: Path) -> None:
    for name in ("python", "pip"):
        fake_python(tmp_path / "venv/bin" / name, "3.12")
    assert refusal(tmp_path / "venv").startswith("error: pip could not install, see above: without a network, name a ")


def test_another_package_that_needs_this_one_is_added_without_tearing_the_lock_up(tmp_path: Path) -> None:
    venv = Path(sys.prefix)
    if not (venv / "bin" / "uv").is_file() or not HERE.exists():
        pytest.skip("uv is not in this environment, or there is no lock for this Python")
    theirs = "setup(name='their-package', version='1', install_requires=['espnet_ext', 'torch'])"
    (tmp_path / "setup.py").write_text(f"from setuptools import setup\n{theirs}\n")
    command = ["bash", str(ROOT / "local" / "add_packages.sh"), str(venv), "--dry-run", "--offline"]
    done = subprocess.run([*command, "espnet_ext[report]", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stderr.splitlines() if line.startswith((" +", " -"))]
    changed = {re.split("[= @]+", line)[1] for line in lines}
    assert "their-package" in changed and changed <= {"their-package", "espnet-ext"}
