"""What pip installs and what a source archive holds: everything that somebody without the repository needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import espnet_ext

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("benchmarks", "conf", "docs", "egs2", "egs3", "espnet_ext", "local", "requirements", "tests", ".ci")
MADE = shutil.ignore_patterns("data*", "dump*", "exp*", "downloads", "__pycache__", ".venv-*", ".espnet*", "*.egg-info")
BUILD = "import setuptools.build_meta as b; print(b.build_sdist('dist')); print(b.build_wheel('dist'))"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository without what recipes make, and dist/ with both archives of it."""
    place = tmp_path_factory.mktemp("sources")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    for part in PARTS:  # data/ is also a room of the package
        ignore = MADE if part.startswith("egs") or part == "benchmarks" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, place / part, ignore=ignore)
    (place / "egs2" / "own" / "codec_lm1" / "exp_tiny").mkdir()
    (place / "egs2" / "own" / "codec_lm1" / "exp_tiny" / "private.wav").write_text("not to be shared")
    (place / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return place


def test_the_wheel_holds_configurations_voices_templates_and_the_kernel(sources: Path) -> None:
    (wheel,) = (sources / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"espnet-ext = espnet_ext.bin.command:script" in archive.read(entry_points)
    inside = {f"espnet_ext/conf/{path.name}" for path in (ROOT / "conf").glob("*.yaml")}
    inside |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "espnet_ext").rglob("*.py")}
    for pattern in ("voices/*", "fast/*.cpp", "scoring/page/*.j2", "scoring/page/*.css", "scoring/page/*.js"):
        inside |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "espnet_ext").glob(pattern)}
    assert inside <= names
    assert not [name for name in names if name.startswith(("tests/", "egs2/", "conf/"))]


def test_the_source_archive_holds_what_the_repository_has_and_nothing_that_recipes_made(sources: Path) -> None:
    (archive,) = (sources / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    there = {
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*")
        if path.is_file() and path.relative_to(sources).parts[0] in (*PARTS, "README.md", "Makefile", "CITATION.cff")
    }
    made = {name for name in there if "exp_tiny" in name or name.endswith(".pyc") or ".egg-info" in name}
    assert made and not made & names
    assert sorted(there - made - names) == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    changes = re.findall(r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert cited and cited[1] == changes[0] == espnet_ext.__version__
