"""What core LMs are given: inputs that another package brings, and what the built-in ones say of their options."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from espnet_ext.codes import CodecSpec
from espnet_ext.data.encoding import encode_each
from espnet_ext.data.inputs import Inputs, input_kinds, register_inputs
from espnet_ext.data.inputs.batches import read_batches
from espnet_ext.data.preprocess import Preprocess, frames_of
from espnet_ext.errors import UserError
from espnet_ext.tokenizers.codec import read_codec_info, write_codec_info
from espnet_ext.tokenizers.description import Description
from espnet_ext.tokenizers.semantic import read_semantic_info, write_semantic_info

CODEC_INFO = """\
codec: world_vq
codec_conf:
  checkpoint: codec.npz
  chunk_sec: 30.0
spec:
  num_codebooks: 2
  codebook_size: 8
  frame_rate_hz: 25.0
  sample_rate_hz: 16000
fingerprint: 12ab
origin:
  seed: 0
"""
SEMANTIC_INFO = """\
tokenizer: mfcc_km
tokenizer_conf:
  checkpoint: semantic.npz
spec:
  num_codebooks: 1
  codebook_size: 16
  frame_rate_hz: 50.0
  sample_rate_hz: 16000
deduplicate: true
fingerprint: cd34
origin: {}
"""


@pytest.fixture
def pitched(monkeypatch: pytest.MonkeyPatch) -> type[Inputs]:
    """Inputs as another package would register them: a pitch per frame beside the codes."""
    monkeypatch.setattr(input_kinds, "_classes", dict(input_kinds._classes))

    @register_inputs("pitch")
    class PitchInputs(Inputs):
        required = ("pitch", "codes")
        files = {"pitch": "pitch", "codes": "codes.scp"}
        vocabulary = 128

        def preprocessor(self, train: bool) -> Preprocess:
            def arrays(utt_id, data):  # type: ignore[no-untyped-def]
                pitch = np.array([int(word) for word in data["pitch"].split()])
                return {"pitch": pitch, "codes": frames_of(data["codes"], self.spec, f"codes of {utt_id}")}

            return arrays

    return PitchInputs


def options(tmp_path: Path) -> Namespace:
    (tmp_path / "codec_info.yaml").write_text(CODEC_INFO)
    return Namespace(codec_info=str(tmp_path / "codec_info.yaml"), semantic_info=None, output_dir=str(tmp_path / "exp"))


def test_another_package_brings_inputs_that_validation_reads(pitched: type[Inputs], tmp_path: Path) -> None:
    from espnet_ext.data.ark import codes_writer

    inputs = pitched(options(tmp_path))
    with codes_writer(tmp_path) as write:
        write("a-1", np.array([[1, 2], [3, 4], [5, 6]]))
    (tmp_path / "pitch").write_text("a-1 60 61 62\n")
    ((names, batch),) = read_batches(inputs, tmp_path, ["a-1"], 4)
    assert names == ["a-1"] and batch["pitch"].tolist() == [[60, 61, 62]]
    assert batch["codes"].tolist() == [[[1, 2], [3, 4], [5, 6]]] and batch["codes_lengths"].tolist() == [3]
    assert inputs.facts["codec_info"]["fingerprint"] == "12ab"
    assert inputs.shapes(5, 7)["codes"] == (8, (5, 2))


@pytest.mark.espnet
def test_the_task_allows_data_that_another_package_reads(pitched: type[Inputs]) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.tasks.codec_lm import CodecLMTask

    names = CodecLMTask.optional_data_names()
    assert {"pitch", "codes", "text", "prompt", "semantic", "prompt_semantic", "language"} == set(names)


def test_descriptions_are_read_and_written_as_they_always_were(tmp_path: Path) -> None:
    for name, text, read, write in (
        ("codec_info.yaml", CODEC_INFO, read_codec_info, write_codec_info),
        ("semantic_info.yaml", SEMANTIC_INFO, read_semantic_info, write_semantic_info),
    ):
        (tmp_path / name).write_text(text)
        write(read(tmp_path), tmp_path / f"again_{name}")
        assert (tmp_path / f"again_{name}").read_text() == text
    spec = CodecSpec(2, 8, 25.0, 16000)
    expected = Description("world_vq", tmp_path / "codec.npz", {"chunk_sec": 30.0}, spec, "12ab", {"seed": 0})
    assert read_codec_info(tmp_path) == expected


def test_a_defect_of_a_codec_is_no_reason_to_skip_an_utterance() -> None:
    def encode(wav: str) -> np.ndarray:
        if wav == "empty.wav":
            raise UserError("empty wav: empty.wav")
        first, second = [1, 2, 3]  # type: ignore[misc]
        return np.array([first, second])

    assert encode_each(encode, {"a": "empty.wav"}) == {"a": "empty wav: empty.wav"}
    with pytest.raises(ValueError, match="too many values to unpack"):
        encode_each(encode, {"a": "good.wav"})


def test_what_a_recipe_does_not_name_is_found_beside_the_codes(pitched: type[Inputs], tmp_path: Path) -> None:
    codes = (str(tmp_path / "codes.scp"), "codes", "kaldi_ark")
    inputs = pitched(options(tmp_path))
    assert inputs.complete([codes]) == [codes]
    pitch = str(tmp_path / "pitch")
    Path(pitch).write_text("a-1 60\n")
    assert inputs.complete([codes]) == [codes, (pitch, "pitch", "text")]
    for named in ("pitch", "other"):  # whoever names it says what it is
        assert inputs.complete([codes, (pitch, named, "text")]) == [codes, (pitch, named, "text")]
    assert inputs.complete([]) == []
