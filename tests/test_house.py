"""The house rules that a machine can check: sizes, names, who imports what."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet_ext.moved import MOVED, new_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "espnet_ext"
PYTHON_FILES = sorted(
    path
    for folder in ("espnet_ext", "tests", "local", "egs2", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)  # peers that were installed
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODEL_CORE = [name for name in MODULES if name.split(".")[1:2] in (["model"], ["decoding"])]

# What every room may import besides the ground: the loose modules of the root.
GROUND = {"codes", "defaults", "errors", "options", "registries", "registry"}
CORPUS = {"storage", "tokenizers", "jobs", "data"}
ROOMS = {
    "storage": set(),
    "tokenizers": {"storage"},
    "model": set(),
    "decoding": {"model"},
    "fast": {"storage", "decoding", "model"},
    "jobs": {"storage"},
    "data": {"storage", "tokenizers", "jobs"},
    "tasks": {"storage", "tokenizers", "data", "model"},
    "inference": {*CORPUS, "model", "decoding", "fast"},
    "scoring": CORPUS,
    "tuning": {*CORPUS, "scoring", "decoding"},
    "doctor": {*CORPUS, "inference", "model", "decoding"},
    "sharing": {*CORPUS, "inference", "decoding", "model"},
    "demo": {*CORPUS, "inference", "scoring", "decoding"},
    "testing": {"tokenizers", "model", "decoding", "scoring"},
    "benchmark": {"storage", "tokenizers", "model", "decoding", "fast", "scoring"},
}

# The environment of somebody who installed torch and nothing else.
ONLY_TORCH = """
import importlib, sys
ALLOWED = {"espnet_ext", "torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2",
           "markupsafe", "fsspec", "filelock", "setuptools", "_distutils_hack"}
class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r} (only torch is installed)", name=name)
sys.meta_path.insert(0, Refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

# A program that uses the strategy of CONTRIBUTING.md, which it finds as the module example.py.
USE_EXAMPLE = """
import importlib.metadata
importlib.metadata.entry_points = lambda **group: ()  # the example itself may be installed as a package
import torch
import example
from espnet_ext.decoding import build_strategy
from espnet_ext.model.heads import Heads, ParallelHeads
from espnet_ext.decoding.sampling import Sampler, SamplingOptions, row_generators
torch.manual_seed(0)
heads = Heads({"parallel": ParallelHeads(slots=6, vocab_size=11, width=4)})
for options, rows in ((SamplingOptions(), 5), (SamplingOptions(cfg_scale=2.0), 10)):
    sampler = Sampler(options, row_generators(0, list("abcde")))
    filled = build_strategy("best_of").decode_step(heads, torch.randn(rows, 4), sampler)
    assert filled.codes.shape == filled.logprobs.shape == (rows, 6)
    assert filled.local_passes.tolist() == [1] * rows
"""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` uses the package's name only
            yield from (name if name in MODULES else node.module for name in inner)


def importers(*packages: str) -> set[str]:
    return {
        relative(path)
        for path in PYTHON_FILES
        if any(name.partition(".")[0] in packages for name in imported_names(parsed(path)))
    }


def import_time_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported; those for type checkers alone do not."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from import_time_statements(getattr(node, field, []))


def import_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = {
            name
            for node in import_time_statements(parsed(path).body)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imported_names(node)
        }
        graph[module] = (names & MODULES.keys()) - {module}
    return graph


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            parameters = len(node.args.args) + len(node.args.kwonlyargs) - 1
            # those of a core LM are the keys of its yaml
            most = 15 if path.parent.name == "core_lm" else 10
            assert node.name != "__init__" or parameters <= most, f"a constructor has {parameters} parameters"


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs2/*/*/run.sh")), ids=relative)
def test_recipes_are_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    assert not [relative(path) for path in PYTHON_FILES if path.name in vague]


def test_nothing_is_left_to_do() -> None:
    shell = [*ROOT.glob("local/*.sh"), *ROOT.glob("egs2/**/*.sh")]
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert not [relative(path) for path in [*PYTHON_FILES, *shell] if marks.search(path.read_text(encoding="utf-8"))]


def test_espnet_is_imported_behind_its_boundary_only() -> None:
    allowed = {"espnet_ext/tokenizers/codec/espnet.py", "espnet_ext/scoring/evaluators/espnet.py"}
    package = {name for name in importers("espnet", "espnet2", "espnetez") if name.startswith("espnet_ext/")}
    assert {name for name in package if not name.startswith("espnet_ext/tasks/")} <= allowed


def test_parts_of_espnet_that_change_or_download_are_not_imported() -> None:
    refused = ("espnet.", "espnetez", "espnet2.speechlm", "espnet2.train.collate_fn", "espnet2.train.preprocessor")
    for path in PYTHON_FILES:
        if path.parent.name == "peers":  # a peer's own process imports the peer, and nothing of ours
            continue
        names = [name for name in imported_names(parsed(path)) if name.startswith(refused) or name == "espnet"]
        assert not names, f"{relative(path)} imports {names}"


def test_arks_are_read_and_written_in_one_file() -> None:
    assert {name for name in importers("kaldiio", "omniio") if name.startswith("espnet_ext/")} <= {
        "espnet_ext/data/ark.py"
    }


def test_modules_do_not_import_each_other_in_circles() -> None:
    graph = import_graph()
    while leaves := {module for module, needs in graph.items() if not needs}:
        graph = {module: needs - leaves for module, needs in graph.items() if module not in leaves}
    # what is left is in a circle or imports one
    assert not graph


def test_nothing_imports_the_command_lines() -> None:
    for module, needs in import_graph().items():
        assert not [
            name for name in needs if name.startswith("espnet_ext.bin.") and not module.startswith("espnet_ext.bin")
        ]


def test_no_module_lies_loose_in_the_root() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose <= {"__init__", *GROUND, "moved"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*ROOMS, "bin"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_it_may(room: str) -> None:
    for module in MODULES:
        if module.split(".")[1:2] == [room]:
            names = {name for name in imported_names(parsed(MODULES[module])) if name in MODULES}
            others = {name.split(".")[1] for name in names if "." in name} - {room}
            assert others <= GROUND | ROOMS[room], f"{module} imports {sorted(others - GROUND - ROOMS[room])}"


def test_former_names_of_modules_are_the_modules_themselves() -> None:
    for name in sorted({*MOVED, "codec.world_vq", "scoring.mos.dnsmos"}):
        former, now = f"espnet_ext.{name}", new_name(f"espnet_ext.{name}")
        assert now in MODULES, f"{former} is said to be {now}"
        assert former not in MODULES, f"{former} is there and is said to have moved"
    code = (
        "import espnet_ext.codes, espnet_ext.sampling, espnet_ext.decoding.sampling\n"
        "import espnet_ext.local_transformer.ar as former, espnet_ext.model.heads.ar as now\n"
        "from espnet_ext.sampling import Sampler\n"
        "assert espnet_ext.sampling is espnet_ext.decoding.sampling and former is now"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code], cwd=ROOT, check=False
    )
    assert done.returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_former_modules_still_have_what_plug_ins_took_from_them() -> None:
    taken = {
        "decoding": ("register_strategy", "build_strategy", "DecodingStrategy"),
        "local_transformer": ("Heads", "ParallelHeads", "LocalTransformer"),
        "sampling": ("Sampler", "SamplingOptions", "row_generators"),
        "codec": ("Codec", "register_codec", "load_codec"),
        "semantic": ("SemanticTokenizer", "register_semantic"),
        "scoring.recogniser": ("Recogniser", "register_recogniser"),
        "scoring.voice": ("SpeakerEncoder", "register_speaker_encoder"),
        "scoring.mos": ("OpinionPredictor", "register_mos"),
        "inference": ("CodecLM", "DecodeOptions", "FastOptions", "Speech", "Timing"),
        "gpst_inference": ("GPSTSpeech",),
        "gpst_modes": ("SpeakerTransfer", "TextToSpeech", "Request", "modes"),
        "tuning": ("Grid", "choose", "search"),
    }
    for module, names in taken.items():
        found = importlib.import_module(f"espnet_ext.{module}")
        assert not [name for name in names if not hasattr(found, name)], module


def test_model_core_needs_only_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONLY_TORCH, *MODEL_CORE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_model_speaks_without_espnet() -> None:
    code = (
        "import sys, espnet_ext.inference\n"
        "sys.exit(any(name.split('.')[0] in ('espnet', 'espnet2') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_strategy_of_the_contributing_page_works(tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(textwrap.dedent("   " + example.lstrip()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", USE_EXAMPLE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
