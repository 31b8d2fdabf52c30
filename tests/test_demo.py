"""What the demo's button does, without a browser and without gradio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from espnet_ext.decoding.options import DecodeOptions
from espnet_ext.fast.folded import FoldedRead

pytestmark = pytest.mark.espnet


@pytest.fixture(scope="module")
def speak(experiment: Path):
    from espnet_ext.inference import CodecLM

    return CodecLM.from_experiment(experiment)


def wish(**changes):
    from espnet_ext.demo.speak import Wish

    values = {"text": "abba", "prompt": None, "decoding": "local_maskgit", "rounds": 2, "temperature": 0.8}
    return Wish(**{**values, "guidance": 1.0, "seed": 1, **changes})


def test_models_of_the_page_are_made_fast_when_asked(experiment: Path) -> None:
    from espnet_ext.bin.demo import load_models
    from espnet_ext.inference.model_ref import ModelRef

    (label,) = found = load_models([ModelRef(experiment, precision="float32")], None)
    assert label.startswith("S = ") and isinstance(found[label].corelm.heads["ar"].read, FoldedRead)
    with pytest.raises(ValueError, match="compile must be false without precision"):
        load_models([ModelRef(experiment, compile=True)], None)


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
    options = options_for(wish(), bases)
    assert options.decoding_conf == {"order": "left_to_right", "n_rounds": 2}
    assert options.sampling == {"top_k": 5, "temperature": 0.8, "cfg_scale": 1.0}
    assert (options.seed, options.maxlenratio) == (1, 3.0)
    assert "n_rounds" not in options_for(wish(decoding="local_ar"), bases).decoding_conf


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

    line = list(answers(speak, wish(text="abx", decoding="local_ar"), {"local_ar": DecodeOptions("local_ar")}))[-1].line
    assert line.endswith("The model does not know 'x' (1)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "  "}, "text must not be empty"),
        ({"text": "\u4f60\u597d"}, "text must have something that the model knows"),
        ({"prompt": Path("nowhere.wav")}, "prompt not found: nowhere.wav"),
        ({"rounds": 0}, "n_rounds must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_granted_is_said_in_one_line(speak, changes: dict, message: str) -> None:
    from espnet_ext.demo.speak import answers

    with pytest.raises((ValueError, OSError), match=message):
        list(answers(speak, wish(**changes), {"local_maskgit": DecodeOptions("local_maskgit")}))


def test_demo_without_gradio_says_how_to_install_it(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet_ext.bin import demo

    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gradio is not installed: pip install 'espnet_ext\[demo\]'"):
        demo.main(["--exp", str(experiment)])
