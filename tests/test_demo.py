"""What the demo's button does, without a browser and without gradio."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.errors import UserError
from espnet_ext.fast.folded import FoldedRead

pytestmark = pytest.mark.espnet


@pytest.fixture(scope="module")
def speak(experiment: Path):
    from espnet_ext.inference import CodecLM

    return CodecLM.from_experiment(experiment)


def wish(**changes):
    from espnet_ext.demo.speak import Wish

    values = {"text": "abba", "prompt": None, "decoding": "local_maskgit"}
    return Wish(**{**values, "options": {"temperature": 0.8, "seed": 1}, **changes})


def test_models_of_the_page_are_made_fast_when_asked(experiment: Path) -> None:
    from espnet_ext.bin.demo import load_models
    from espnet_ext.inference.model_ref import ModelRef

    (label,) = found = load_models({"S = 2": ModelRef(experiment, precision="float32")}, None)
    assert label == "S = 2" and isinstance(found[label].corelm.heads["ar"].read, FoldedRead)
    with pytest.raises(ValueError, match="compile must be false without precision"):
        load_models({"S = 2": ModelRef(experiment, compile=True)}, None)


def test_strategies_offered_are_those_that_the_heads_serve(speak) -> None:
    from espnet_ext.demo.speak import served

    assert served(speak, ["local_ar", "parallel"]) == ["local_ar", "parallel"]


def test_strategy_without_a_decode_yaml_is_not_offered(
    experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from espnet_ext.bin.demo import find_bases

    with pytest.raises(ValueError, match="--conf_dir must have decode_<strategy>.yaml for .* have none"):
        find_bases(experiment, tmp_path)
    (tmp_path / "decode_local_ar.yaml").write_text("sampling: {top_k: 5}\n")
    assert find_bases(experiment, tmp_path) == {"local_ar": DecodeOptions("local_ar", sampling={"top_k": 5})}
    assert (
        f"not offered: parallel of {experiment} has no decode yaml: none of {tmp_path}/decode_parallel.yaml, "
        in caplog.text
    )


def test_wishes_become_decode_options_and_the_rest_is_the_yaml_s() -> None:
    from espnet_ext.demo.speak import options_for

    bases = {"local_maskgit": DecodeOptions("local_maskgit", {"order": "left_to_right"}, {"top_k": 5}, maxlenratio=3.0)}
    bases["local_ar"] = DecodeOptions("local_ar")
    options = options_for(wish(options={"temperature": 0.8, "seed": 1, "n_rounds": 2}), bases)
    assert options.decoding_conf == {"order": "left_to_right", "n_rounds": 2}
    assert options.sampling == {"top_k": 5, "temperature": 0.8}
    assert (options.seed, options.maxlenratio) == (1, 3.0)


def test_options_of_the_page_are_those_of_the_strategy_with_the_values_of_its_yaml() -> None:
    """The page asked for rounds, temperature and guidance alone, and began with other values than the yaml's."""
    from espnet_ext.demo.speak import shown_options

    found = shown_options(DecodeOptions("local_maskgit", {"n_rounds": 5}, {"temperature": (0.3, 0.7)}, seed=4))
    assert (found["n_rounds"], found["order"], found["temperature"], found["seed"]) == (5, "purity", (0.3, 0.7), 4)
    assert "n_rounds" not in shown_options(DecodeOptions("local_ar"))


def test_strategies_of_other_packages_have_their_options_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import dataclass

    from espnet_ext.decoding import strategies
    from espnet_ext.decoding.parallel import Parallel
    from espnet_ext.demo.speak import options_for, shown_options

    @dataclass(frozen=True)
    class Patient(Parallel):
        patience: int = 3

    monkeypatch.setitem(strategies._classes, "patient", Patient)
    bases = {"patient": DecodeOptions("patient", {"patience": 4})}
    assert shown_options(bases["patient"])["patience"] == 4
    options = options_for(wish(decoding="patient", options={"patience": 9}), bases)
    assert options.decoding_conf == {"patience": 9}


def test_fields_show_every_kind_of_value_and_give_it_back() -> None:
    from espnet_ext.demo.fields import from_field, kind_of, to_field

    for default, value in ((1.0, 0), (3, 2), (True, False), ("purity", "frames"), (1.0, (0.3, 0.7)), (None, None)):
        kind = kind_of([default, value])
        back = from_field("x", to_field(value, kind), kind)
        assert back == (list(value) if isinstance(value, tuple) else value)
    assert kind_of([1.0, 0]) == "number"  # 0 in a yaml must not keep 0.5 from being asked for
    with pytest.raises(ValueError, match="temperature must be yaml, got '\\[0.3'"):
        from_field("temperature", "[0.3", "text")
    with pytest.raises(ValueError, match="top_k must be a number, got none"):
        from_field("top_k", None, "whole")


def test_strategy_that_the_page_begins_with_is_the_one_of_the_experiment(
    speak, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the last of the alphabet."""
    from espnet_ext.bin import demo
    from espnet_ext.decoding.options import DecodeOptions
    from espnet_ext.inference.decode_yaml import keep

    conf = tmp_path / "conf"
    conf.mkdir()
    for name in ("local_ar", "parallel", "local_maskgit"):
        (conf / f"decode_{name}.yaml").write_text("{}\n")
    assert demo.offer_of(tmp_path, speak, conf).default == "local_ar"
    keep(tmp_path, DecodeOptions("local_maskgit"))
    assert demo.offer_of(tmp_path, speak, conf).default == "local_maskgit"
    monkeypatch.setattr("espnet_ext.demo.speak.served", lambda speak, bases: [])
    with pytest.raises(ValueError, match="exp must have heads for one of .*got "):
        demo.offer_of(tmp_path, speak, conf)


def test_text_that_is_there_at_the_beginning_is_one_of_the_corpus(tmp_path: Path) -> None:
    from espnet_ext.bin.demo import read_texts

    assert read_texts(None) == read_texts(tmp_path) == []
    (tmp_path / "text").write_text("a-1 two red dogs\na-2 one cat\n")
    assert read_texts(tmp_path) == ["two red dogs", "one cat"]


def test_what_was_heard_is_shown_with_wrong_words_marked_and_why_if_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from espnet_ext.demo import hear
    from espnet_ext.scoring.evaluators import pocketsphinx
    from espnet_ext.scoring.evaluators.evaluator import Choice

    class Deaf:
        def recognise(self, samples: np.ndarray) -> str:
            return "two bad dogs"

    monkeypatch.setattr(Choice, "unavailable", lambda self: None)
    monkeypatch.setattr(hear, "_load", lambda choice: Deaf())
    monkeypatch.setattr(pocketsphinx.PocketSphinx, "known_words", classmethod(lambda cls, words: set(words)))
    found = hear.heard("Two red dogs!", np.zeros(16000, dtype=np.float32), ["one cat"])
    assert found == ('Heard by pocketsphinx, among 5 words: two <mark title="instead of: red">bad</mark> dogs')
    monkeypatch.setattr(Choice, "unavailable", lambda self: "pocketsphinx is not installed: pip install <it>")
    assert hear.heard("two", np.zeros(1), []) == "Not heard: pocketsphinx is not installed: pip install &lt;it&gt;"


def test_answers_grow_to_the_speech_of_a_call_and_say_how_fast_they_came(speak) -> None:
    from espnet_ext.demo.speak import answers, options_for, picture

    base = {"local_ar": DecodeOptions("local_ar", maxlenratio=12.0)}
    asked = wish(decoding="local_ar")
    found = list(answers(speak, asked, base))
    whole = speak("abba", options=options_for(asked, base))
    np.testing.assert_allclose(found[-1].whole, whole.waveform, atol=1e-6)
    assert [one.is_last for one in found] == [False] * (len(found) - 1) + [True]
    assert "first audio after" in found[-1].line and "local passes/frame" in found[-1].line
    assert found[-1].line.endswith("cut at the length limit") == (not whole.has_eos)
    assert picture(found[-1].whole).ndim == 3


def test_what_the_model_does_not_know_of_the_text_is_shown(speak) -> None:
    from espnet_ext.demo.speak import answers

    base = {"local_ar": DecodeOptions("local_ar")}
    assert [one.unknown for one in answers(speak, wish(text="abx", decoding="local_ar"), base)][-1] == (
        "The model does not know 'x' (1)"
    )
    assert {one.unknown for one in answers(speak, wish(text="ab", decoding="local_ar"), base)} == {""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "  "}, "text must not be empty"),
        ({"text": "\u4f60\u597d"}, "text must have something that the model knows"),
        ({"prompt": Path("nowhere.wav")}, "prompt not found: nowhere.wav"),
        ({"options": {"n_rounds": 0}}, "n_rounds must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_granted_is_said_in_one_line(speak, changes: dict, message: str) -> None:
    from espnet_ext.demo.speak import answers

    with pytest.raises((ValueError, OSError), match=message):
        list(answers(speak, wish(**changes), {"local_maskgit": DecodeOptions("local_maskgit")}))


def test_demo_without_gradio_says_how_to_install_it(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet_ext.bin import demo

    monkeypatch.setattr("espnet_ext.errors.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"gradio is not installed: pip install 'espnet_ext\[demo\]', or make install-demo"
    ):
        demo.main(["--exp", str(experiment)])


def test_make_install_demo_installs_gradio_in_the_versions_of_the_lock() -> None:
    """`pip install '.[demo]'`, as the README said in the folder of a recipe, finds no package there."""
    root = Path(__file__).resolve().parent.parent
    told = subprocess.run(["make", "-n", "install-demo"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "install --no-deps -r requirements/lock-demo.txt" in told
    versions: dict[str, set[str]] = {}
    own = f"lock-py{sys.version_info.major}{sys.version_info.minor}.txt"  # each Python has one, with its own versions
    for path in (root / "requirements").glob("lock-*.txt"):
        if path.name.startswith("lock-py3") and path.name != own:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if "==" in line and not line.startswith("#"):
                versions.setdefault(line.partition("==")[0], set()).add(line)
    assert "gradio" in versions and all(len(found) == 1 for found in versions.values())
    assert "make install-demo" in (root / "README.md").read_text(encoding="utf-8")


def test_voices_that_are_recorded_are_kept_where_nobody_else_reads(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_ext.bin import demo

    def serve(wanted: object, data_dir: object) -> None:
        place = Path(os.environ["GRADIO_TEMP_DIR"])
        raise OSError(oct(place.stat().st_mode & 0o777))

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(demo, "missing_package", lambda requires: None)
    monkeypatch.setattr(demo, "load_models", serve)
    with pytest.raises(OSError, match="0o700"):
        demo.main(["--exp", str(experiment)])


def test_a_message_on_the_page_holds_no_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soxr")
    error = type("Error", (Exception,), {"__init__": lambda self, message, **options: None})
    monkeypatch.setitem(sys.modules, "gradio", MagicMock(Error=error))
    monkeypatch.delitem(sys.modules, "espnet_ext.demo.page", raising=False)
    page = importlib.import_module("espnet_ext.demo.page")
    side = MagicMock(players=[], decoding="decoding")
    side.asked.side_effect = UserError("must be yaml, got <img src=//x>")
    values = {"m": "m", "decoding": "parallel"}
    asked = dict.fromkeys(("text", "model", "speaker", "recording"), "m")
    speak = page._handler({"m": MagicMock()}, {}, [side], asked, [])(values)
    with pytest.raises(error) as caught:
        list(speak)
    assert caught.value.args == ("must be yaml, got &lt;img src=//x&gt;",)
    monkeypatch.delitem(sys.modules, "espnet_ext.demo.page")
