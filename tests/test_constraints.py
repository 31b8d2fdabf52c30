"""requirements/constraints-py3*.txt: what they prevent when pip alone adds packages, and that they fit the locks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "requirements").glob("constraints-py3*.txt"))
HERE = ROOT / "requirements" / f"constraints-py{sys.version_info.major}{sys.version_info.minor}.txt"
NO_NETWORK = r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError"


def versions(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+", line) for line in lines), "pip takes nothing else as a constraint"
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def test_there_is_one_beside_every_lock_with_its_torchaudio_and_one_torch() -> None:
    locks = {path.name.replace("lock", "constraints") for path in (ROOT / "requirements").glob("lock-py3*.txt")}
    assert {path.name for path in FILES} == locks
    for path in FILES:
        found = versions(path)
        locked = versions(path.with_name(path.name.replace("constraints", "lock")))
        assert found["torchaudio"] == locked["torchaudio"] and found["pyworld-prebuilt"] == locked["pyworld-prebuilt"]
        assert not [name for name in found if name.startswith(("nvidia-", "cuda-", "triton"))]  # of one build of torch
        assert ("pyworld" in found) == path.name.endswith("311.txt")  # which ESPnet 202511 asks for


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment in which pip finds a CPU build of torch."""
    if not HERE.is_file():
        pytest.skip(f"there is no {HERE.name}")
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    version = f"{versions(HERE)['torch']}+cpu"
    facts = packages / f"torch-{version}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return tmp_path / "venv" / "bin" / "python"


def resolved(environment: Path, *wanted: object) -> dict[str, str]:
    """What pip would install: name → version."""
    report = environment.parent / "report.json"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment, "install", "--dry-run"]
    how = ["--quiet", "--retries", "0", "--timeout", "10", "--report", report, "-c", HERE]
    done = subprocess.run([*map(str, pip + how), *map(str, wanted)], capture_output=True, text=True, check=False)
    if done.returncode and re.search(NO_NETWORK, done.stderr):
        pytest.skip("pip reaches no index")
    assert done.returncode == 0, done.stderr
    facts = [one["metadata"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in facts}


def test_pip_keeps_a_cpu_build_of_torch_and_takes_the_versions_of_the_file(environment: Path) -> None:
    found = resolved(environment, "torch", "torchaudio", "pyworld-prebuilt", "setuptools")
    assert {"torchaudio", "pyworld-prebuilt", "setuptools"} <= found.keys() and "torch" not in found
    expected = versions(HERE)
    assert found == {name: expected.get(name) for name in found}


@pytest.mark.slow
def test_pip_adds_a_package_that_requires_this_one_and_keeps_torch(environment: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("espnet_ext", "conf"):
        shutil.copytree(ROOT / name, sources / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, sources)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "setup.py").write_text(
        "from setuptools import setup\n"
        "setup(name='their-package', version='1', install_requires=['espnet_ext[demo]', 'torch'])\n"
    )
    found = resolved(environment, f"{sources}[demo]", theirs)
    expected = versions(HERE)
    assert {"their-package", "espnet-ext", "espnet", "gradio"} <= found.keys()
    assert not [name for name in found if name == "torch" or name.startswith(("nvidia-", "cuda-", "triton"))]
    assert "pyworld-prebuilt" not in found and ("pyworld" in found) == (sys.version_info < (3, 12))
    others = {name: version for name, version in found.items() if name not in ("their-package", "espnet-ext")}
    assert others == {name: expected.get(name) for name in others}
