"""What benchmarks/structure.py counts, on packages of a few lines."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "structure.py"
RUN = "\n".join(f"value_{number} = {number}" for number in range(8))
SOURCES = {
    Path("__init__.py"): "from espnet_ext.one import a\n",
    Path("one.py"): "import espnet_ext.two.deep\nfrom espnet_ext import three\nimport torch\n",
    Path("two/__init__.py"): "",
    Path("two/deep.py"): f"def late():\n    from espnet_ext.three import b\n\n\n{RUN}\n",
    Path("three.py"): f'"""Says something."""\n\nfrom espnet_ext.two import deep\n\n{RUN}\n# a remark\nlast = 1\n',
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arrows_are_of_rooms_and_of_late_imports_too(script: ModuleType) -> None:
    arrows = script.arrows_of(SOURCES)
    assert arrows == {("one", "two"), ("one", "three"), ("two", "three"), ("three", "two")}
    assert script.circles_of(arrows) == [["three", "two"]]
    assert script.circles_of(arrows - {("three", "two")}) == []


def test_lines_that_tell_something_are_no_docstrings_imports_or_remarks(script: ModuleType) -> None:
    lines = script.telling_lines(SOURCES[Path("three.py")])
    assert lines == [*((5 + number, f"value_{number} = {number}") for number in range(8)), (14, "last = 1")]


def test_runs_of_six_lines_are_found_whole_and_once(script: ModuleType) -> None:
    assert script.twins_of(SOURCES) == [{"lines": 8, "places": ["three.py:5", "two/deep.py:5"]}]
    five = {path: text.replace("value_3", f"of_{path.stem}") for path, text in SOURCES.items()}
    assert script.twins_of(five) == []
    again = {Path("one.py"): "\n".join([RUN, "between = 0", RUN])}
    assert script.twins_of(again) == [{"lines": 8, "places": ["one.py:10", "one.py:1"]}]


def test_a_root_without_the_package_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr == f"error: root must be a checkout with espnet_ext/, got {tmp_path}\n"


@pytest.mark.espnet
@pytest.mark.slow
def test_the_way_to_the_draw_begins_at_the_command(script: ModuleType) -> None:
    found = script.spoken_by(SCRIPT.parent.parent)
    way = found["details"]["way_to_the_draw"]
    assert way[0].endswith("codec_lm_inference.py:main") and way[-1].endswith("categorical")
    assert found["functions_to_the_draw"] == len(set(way)) and found["executed_lines"] > 300
