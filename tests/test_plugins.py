"""What another package announces by entry points can be chosen as if it were here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ext.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("corelm", "primary", "head", "prior")
TOY = """
from espnet_ext.model.core_lm import TextCoreLM, register_corelm
from espnet_ext.model.heads import ARLocalTransformer, register_head
from espnet_ext.model.primary import CrossAttentionPrimary, PathPrior, register_primary, register_prior

@register_corelm("toy_lm")
class ToyLM(TextCoreLM):
    def __init__(self, *given, loudness=1.0, **options):
        super().__init__(*given, **options)

@register_primary("toy_primary")
class ToyPrimary(CrossAttentionPrimary): ...

@register_head("toy_head")
class ToyHead(ARLocalTransformer): ...

@register_prior("toy_prior")
class ToyPrior(PathPrior): ...
"""
BUILD = """
from espnet_ext.codes import CodecSpec
from espnet_ext.model.build import ModelOptions
primary = {"width": 8, "heads": 2, "layers": 1, "prior": "toy_prior"}
options = ModelOptions("toy_lm", {}, "toy_primary", primary, "toy_head", {"width": 8, "heads": 2}, 2).complete()
assert options.corelm_conf["loudness"] == 1.0 and options.corelm_conf["delays"] == []
assert options.primary_conf["prior_conf"]["moves"] is False and options.local_conf["layers"] == 1
model = options.build(CodecSpec(2, 8, 25.0, 16000), 5)
parts = model, model.primary, model.primary.prior, model.heads["toy_head"]
assert [type(part).__name__ for part in parts] == ["ToyLM", "ToyPrimary", "ToyPrior", "ToyHead"]
"""
PARSE = """
from espnet_ext.tasks.codec_lm import CodecLMTask
command = "--output_dir out --corelm toy_lm --primary toy_primary --local toy_head".split()
assert CodecLMTask.get_parser().parse_args(command).corelm == "toy_lm"
assert CodecLMTask.get_default_config()["corelm_conf"]["local_drop"] == 0.0
"""


def install(folder: Path, module: str) -> None:
    """The module as pip would leave a package that announces it."""
    (folder / "toy.py").write_text(module)
    info = folder / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[espnet_ext.{group}]\ntoy = toy\n" for group in GROUPS))


@pytest.mark.parametrize("code", [BUILD, pytest.param(PARSE, marks=pytest.mark.espnet)], ids=["build", "parse"])
def test_what_a_package_announces_is_chosen_by_its_name(code, tmp_path):
    install(tmp_path, TOY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_package_that_does_not_import_is_named(tmp_path, monkeypatch):
    install(tmp_path, "import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("corelm", "espnet_ext.corelm")
    for _ in range(2):  # it is not forgotten
        with pytest.raises(RuntimeError, match="plug-in toy = toy of espnet_ext.corelm does not load: No module named"):
            list(registry)


def test_former_names_of_heads_are_the_heads():
    from espnet_ext import local_transformer
    from espnet_ext.model.heads import Head, Heads, ParallelHeads, SlotClassifiers

    assert (local_transformer.LocalTransformer, local_transformer.SlotHeads) == (Head, SlotClassifiers)
    assert (local_transformer.Heads, local_transformer.ParallelHeads) == (Heads, ParallelHeads)
    assert "ar" in local_transformer.local_transformers and issubclass(ParallelHeads, Head)


def test_options_are_those_of_every_constructor_that_hands_keywords_on():
    class Base:
        def __init__(self, given, *, width=1, depth=2): ...

    class Mixed: ...

    class Deeper(Mixed, Base):
        def __init__(self, *given, depth=3, **options): ...

    registry = Registry("thing")
    registry.register("deeper")(Deeper)
    assert registry.options("deeper") == {"width": 1, "depth": 3}
    with pytest.raises(ValueError, match="thing_conf of deeper must be among"):
        registry.check_options("deeper", {"given": 1})
