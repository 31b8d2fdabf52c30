"""Options of `gpst_inference` that a mode would ignore."""

from __future__ import annotations

import pytest
from fabricated import one_error

pytest.importorskip("espnet2")
from espnet_ext.bin import gpst_inference
from espnet_ext.inference.requests import modes

pytestmark = pytest.mark.espnet
IGNORED = {
    "continuation": {"silence_sec": "0.2", "prompts": "y", "prompt_wav": "y", "text": "a", "text_to_semantic": "y"},
    "semantic_to_acoustic": {
        "prompt_sec": "3.5",
        "text": "a",
        "prompt_wav": "y",
        "prompts": "y",
        "num_utterances": "2",
    },
    "speaker_transfer": {"text": "a", "text_to_semantic": "y", "num_utterances": "2"},
    "tts": {"target_wav": "y", "num_utterances": "2"},
    "unconditional": {"target_wav": "y", "text": "a", "prompts": "y", "silence_sec": "0.2", "text_to_semantic": "y"},
}


@pytest.mark.parametrize(("mode", "name"), [(mode, name) for mode in IGNORED for name in IGNORED[mode]])
def test_an_option_that_a_mode_would_ignore_is_refused_with_the_modes_that_read_it(tmp_path, mode, name):
    """A transfer with --text spoke something else than the text, and nobody was told."""
    value = IGNORED[mode][name]
    error = one_error(gpst_inference.main, "--exp", "x", "--output_dir", tmp_path / "out", "--mode", mode,
                      f"--{name}", value)  # fmt: skip
    assert f"{name} must be left out with mode {mode}, got {value}: it is for " in error
    assert all((word in error.rpartition("it is for ")[2].split(", ")) == (name in modes[word].reads) for word in modes)
    assert not list(tmp_path.iterdir())


def test_an_unknown_mode_is_refused_with_the_list(tmp_path):
    error = one_error(gpst_inference.main, "--exp", "x", "--output_dir", tmp_path / "out", "--mode", "dubbing")
    assert "mode must be one of ['continuation', " in error


def test_options_of_another_mode_are_refused_with_those_there_are(tmp_path):
    line = ("--exp", "x", "--output_dir", tmp_path / "out", "--mode", "continuation", "--mode_conf", "stretch=2")
    assert "mode_conf of continuation must be among [], got ['stretch']" in one_error(gpst_inference.main, *line)
