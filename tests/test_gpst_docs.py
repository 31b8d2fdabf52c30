"""What docs/gpst.md shows exists, and its figures are those of the dry runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import built_in

pytest.importorskip("espnet2")
from espnet_ext.bin import gpst_inference
from espnet_ext.inference.options import check_options
from espnet_ext.inference.requests import modes_of
from espnet_ext.model.core_lm import GPST
from espnet_ext.tokenizers.semantic import semantic_tokenizers

pytestmark = pytest.mark.espnet
ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "gpst.md").read_text(encoding="utf-8")


def table_rows(first_column):
    """Cells of the rows of the table whose first column has this title."""
    lines = PAGE.split(f"| {first_column} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_path_in_backticks_exists():
    named = re.findall(r"`((?:egs2|conf|espnet_ext|local|tests|benchmarks)/[\w./-]*\.\w+)`", PAGE)
    assert len(named) > 8 and [path for path in named if not (ROOT / path).exists()] == []


def test_every_mode_and_every_semantic_tokenizer_has_a_row():
    assert {row[0].strip("`") for row in table_rows("mode")} == set(modes_of(GPST))
    named = {name.strip("` ") for row in table_rows("semantic tokenizer") for name in row[0].split(",")}
    assert named == set(built_in(semantic_tokenizers))


def test_the_commands_of_the_modes_are_understood():
    lines = [line for line in PAGE.splitlines() if line.startswith("python -m espnet_ext.bin.gpst_inference")]
    shared = shlex.split(re.search(r'^model="(.*?)"', PAGE, flags=re.MULTILINE).group(1))
    found = []
    for line in lines:
        words = shlex.split(line)[3:]
        words = [word for given in words for word in (shared if given == "$model" else [given])]
        args = gpst_inference.get_parser().parse_args(words)
        check_options(args)
        found.append(args.mode)
    assert sorted(found) == modes_of(GPST)


def test_the_figures_of_the_sizes_are_those_of_the_dry_runs():
    reports = json.loads((ROOT / "benchmarks" / "results" / "gpst_configurations_cpu.json").read_text())
    rows = table_rows("configuration")
    assert len(rows) == len(reports)
    for (name, parameters, _, memory, tflop, hours), report in zip(rows, reports, strict=True):
        assert name.startswith(("the same", f"`{report['config']}`"))
        assert float(parameters.split()[0]) == pytest.approx(report["parameters"]["total"] / 1e6, abs=0.05)
        assert float(memory.split()[0]) == pytest.approx(report["memory_bytes"]["total"] / 1e9, rel=0.005)
        assert float(tflop) == pytest.approx(report["batch"]["flops"] / 1e12, rel=0.005)
        assert float(hours.replace(",", "")) == pytest.approx(report["training"]["hours_at_assumed_tflops"], rel=0.02)
        assert report["training"]["assumed_tflops"] == 50
