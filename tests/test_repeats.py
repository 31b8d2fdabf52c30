"""Systems with several outputs, codes made of audio, and what nobody could measure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_score_stage import HearingCodec, ToyCodec, buzz, test_set  # noqa: F401 (a fixture)

from espnet_ext.data.ark import codes_writer
from espnet_ext.scoring.evaluate import evaluate
from espnet_ext.scoring.scores import Scores
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import load_reference, load_system
from espnet_ext.scoring.tables.report import results_page

COSTS = {"rtf": 0.25, "steps": 40, "decoding": "local_ar", "seed": 0, "frames_per_second": 100.0}


def write_repeat(name: str, seed: int, rtf: float) -> Path:
    """A copy of x with other codes, another seed, and other costs."""
    folder = Path(f"exp/decode_{name}/set")
    shutil.copytree("exp/decode_x/set", folder)
    generator = np.random.default_rng(seed)
    with codes_writer(folder) as write:
        for one in ("a-1", "a-2", "b-1", "b-2"):
            write(one, generator.integers(4, size=(10, 2)))
    (folder / "timing.json").write_text(json.dumps({**COSTS, "seed": seed, "rtf": rtf}))
    return folder


def three_outputs(**settings: Any) -> Scores:
    Path("exp/decode_x/set/timing.json").write_text(json.dumps(COSTS))
    repeats = [write_repeat("x_seed1", 1, 0.35), write_repeat("x_seed2", 2, 0.95)]
    reference = load_reference(Path("reference"))
    systems = [load_system("original", Path("reference"), reference.transcripts)]
    systems.append(load_system("s1_x", Path("exp/decode_x/set"), reference.transcripts, repeats))
    return evaluate(reference, systems, ToyCodec(), Settings(resamples=50, **settings))


def test_figures_are_means_over_the_repeats_and_speeds_medians(test_set: Path) -> None:  # noqa: F811
    result = three_outputs()
    x = result.systems["s1_x"]
    assert [repeat.seed for repeat in x.repeats] == [0, 1, 2]
    distances = [repeat.frechet for repeat in x.repeats]
    assert len(set(distances)) == 3
    assert x.frechet.distance == pytest.approx(np.mean(distances))
    assert x.wer.rate == pytest.approx(np.mean([repeat.wer for repeat in x.repeats]))
    assert (x.utterances, x.wer.sentences) == (12, 12)
    assert (x.rtf, x.timing["frames_per_second"]) == (0.35, 100.0)
    assert x.problems["no_eos"] == ["b-2", "b-2 (seed 1)", "b-2 (seed 2)"]
    assert x.eos_rate == 0.75
    assert x.decoding.seeds == [0, 1, 2]
    assert x.speaker.interval is not None
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    assert "and of a system's outputs" in page
    assert "- outputs with different seeds: 3; figures are means over them, speeds medians" in page


def test_repeats_that_are_no_repeats_are_refused(test_set: Path) -> None:  # noqa: F811
    Path("exp/decode_x/set/timing.json").write_text(json.dumps(COSTS))
    repeat = write_repeat("x_seed0", 0, 0.2)
    with pytest.raises(
        ValueError, match=r"repeat of 'x' must have another seed than \[0\], got exp/decode_x_seed0/set"
    ):
        load_system("x", Path("exp/decode_x/set"), ["a-1"], [repeat])
    (repeat / "timing.json").write_text(json.dumps({**COSTS, "seed": 1, "decoding": "parallel"}))
    with pytest.raises(
        ValueError, match="repeat of 'x' must have decoding 'local_ar' as its first output, got 'parallel'"
    ):
        load_system("x", Path("exp/decode_x/set"), ["a-1"], [repeat])


def test_silent_and_clipped_audio_and_a_missing_recording_are_named(test_set: Path) -> None:  # noqa: F811
    folder = Path("exp/decode_x/set/wav")
    soundfile.write(folder / "a-1.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "a-2.wav", np.clip(30 * buzz(1.1, 100), -1, 1), 16000)
    soundfile.write(folder / "b-1.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    Path("reference/wav/b-2.wav").unlink()
    reference = load_reference(Path("reference"))
    system = load_system("x", Path("exp/decode_x/set"), reference.transcripts)
    result = evaluate(reference, [system], ToyCodec(), Settings(resamples=20))
    x = result.systems["x"]
    assert (x.problems["silent"], x.problems["clipped"]) == (["a-1"], ["a-2"])
    assert x.missing["b-1"].startswith("not finite: ")
    assert result.reference.missing == {"b-2": "missing wav: reference/wav/b-2.wav"}
    assert x.measures["mcd"].utterances <= 1, "a-2 alone has two sides that are not silent"
    assert x.measures["dnsmos_ovrl"].utterances == 2
    assert x.wer.reference == 16
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    assert "- reference, no recording: 1 × missing wav (b-2)" in page
    assert "- x: 1 × silent (a-1)" in page
    assert "|x|4|1|1|1|1|" in page.partition("### What went wrong")[2]


def test_what_is_left_out_or_not_installed_is_said_in_the_table(
    test_set: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from espnet_ext.scoring.evaluators.dnsmos import DNSMOS

    monkeypatch.setattr(DNSMOS, "requires", {"no_such_module": "no-such-package"})
    result = three_outputs(asr=None, distortion=False)
    x = result.systems["s1_x"]
    assert x.wer is None and x.cer is None and x.hypotheses == {}
    assert "mcd" not in x.measures and "dnsmos_ovrl" not in x.measures
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    assert "### WER" not in page
    row = next(line for line in page.splitlines() if line.startswith("|s1_x|12|")).split("|")
    assert row[3] == "left out"
    assert "not installed" in page.partition("### Quality")[2]
    assert "pip install" in page and "no-such-package" in page
    assert "- WER %: left out by --asr none" in page


def test_systems_that_say_no_codes_are_measured_by_the_codes_of_their_audio(
    test_set: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("espnet_ext.scoring.measures.frame_codes.codec_of", lambda path: HearingCodec())
    Path("codec_info.yaml").write_text("")
    folder = Path("exp/resynthesis/set")
    shutil.copytree("exp/decode_x/set", folder)
    (folder / "timing.json").write_text('{"rtf": 0.01, "steps": 0}')
    reference = load_reference(Path("reference"))
    names = {"original": "reference", "resynthesis": str(folder)}
    systems = [load_system(name, Path(path), reference.transcripts) for name, path in names.items()]
    settings = Settings(resamples=20, asr=None, speaker=None, mos=(), distortion=False)
    without = evaluate(reference, systems, ToyCodec(), settings).systems["resynthesis"]
    assert without.frechet.distance is None and without.frechet_heard is None
    settings = replace(settings, codec_info=Path("codec_info.yaml"))
    result = evaluate(reference, systems, HearingCodec(), settings)
    for key in ("frechet", "frechet_heard"):
        assert getattr(result.systems["original"], key).distance == pytest.approx(0.0, abs=1e-9)
    assert result.systems["resynthesis"].frechet.distance is None
    assert result.systems["resynthesis"].frechet_heard.distance > 0
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    assert "FD, heard" in page
