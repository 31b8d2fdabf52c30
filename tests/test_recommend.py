"""The advisor: every rule on made-up measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from espnet_ext.bin import recommend
from espnet_ext.data.datadir import read_scp
from espnet_ext.scoring.scores import Decoding, ErrorRate, FrameDistance, Scores, SystemScores, write_scores
from espnet_ext.scoring.tables.advice import Advice, Candidate, Limit, advise

# name: WER, half of its interval, FD, RTF, frames/s
TABLE = {
    "s1_parallel": (0.30, 0.02, 0.5, 0.040, 1000.0),
    "s1_local_ar": (0.20, 0.02, 0.2, 0.060, 700.0),
    "s1_local_maskgit_n_rounds-3": (0.21, 0.02, 0.3, 0.050, 800.0),
    "s2_local_ar": (0.26, 0.02, 0.25, 0.030, 1300.0),
    "s2_parallel": (0.60, 0.05, 0.9, 0.029, 1600.0),
}


def system(wer: float | None, half: float, frechet: float, rtf: float, speed: float, name: str) -> SystemScores:
    return SystemScores(
        wer=None if wer is None else ErrorRate(rate=wer, interval=(wer - half, wer + half)),
        frechet=FrameDistance(frechet + 0.1, frechet, (frechet - 0.01, frechet + 0.01)),
        rtf=rtf,
        timing={"steps": 9, "decoding": name[3:], "frames_per_second": speed, "batch_size": 16},
        decoding=Decoding(name[3:], {"n_rounds": 3}, {"temperature": 0.7}, int(name[1])),
    )


def scores(**changes: tuple[Any, ...]) -> Scores:
    systems = {name: system(*values, name) for name, values in {**TABLE, **changes}.items()}
    return Scores(systems={"original": SystemScores(wer=ErrorRate(rate=0.0, interval=(0, 0))), **systems})


@pytest.mark.parametrize(
    ("target", "limits", "chosen"),
    [
        # 0.029 and 0.030 are equal within 5 %: the word error rate decides
        ("latency", [], "s2_local_ar"),
        ("latency", [Limit("wer", 23)], "s1_local_maskgit_n_rounds-3"),
        ("throughput", [], "s2_parallel"),
        ("throughput", [Limit("wer", 50)], "s2_local_ar"),
        # the intervals of 20 and 21 % overlap: the Fréchet distance decides
        ("quality", [], "s1_local_ar"),
        ("quality", [Limit("rtf", 0.05)], "s1_local_maskgit_n_rounds-3"),
        ("quality", [Limit("frames_per_second", 900)], "s2_local_ar"),
    ],
)
def test_target_and_limits_decide(target: str, limits: list[Limit], chosen: str) -> None:
    advice = advise([scores()], target, limits)
    assert advice.chosen is not None and advice.chosen.name == chosen
    assert any("systems are admissible" in line for line in advice.reasons)


def test_reasons_name_the_next_best_the_baseline_and_what_better_and_faster_would_cost() -> None:
    advice = advise([scores()], "quality", [Limit("rtf", 0.05)])
    text = " ".join(advice.reasons)
    assert "3 of 5" not in text and "4 of 5 systems are admissible" in text
    assert "Against the next best, s2_local_ar" in text
    assert "Against the baseline s1_parallel: WER % 21.0 against 30.0;" in text
    assert "The next better WER % is 20.0 (s1_local_ar), at 1.20 times the RTF." in text
    assert "The next faster one is s2_local_ar: 0.60 times the RTF, WER % 26.0." in text
    assert advice.excluded == {"s1_local_ar": "RTF at most 0.05 is not met: 0.060"}
    assert "repeat the sweep with --batch_size 1" in " ".join(advise([scores()], "latency").reasons)


def test_overlapping_intervals_are_called_no_difference() -> None:
    text = " ".join(advise([scores()], "quality").reasons)
    assert "WER % 20.0 against 21.0, which is no difference here" in text


def test_distances_decide_by_what_is_left_without_bias_and_by_its_interval() -> None:
    speeds = {name: (0.2, 0.02, 0.2, *values[3:]) for name, values in TABLE.items()}
    told = {**speeds, "s1_local_ar": (0.2, 0.02, 0.15, 0.060, 700.0)}
    equal = {**speeds, "s1_local_ar": (0.2, 0.02, 0.19, 0.060, 700.0)}
    apart, same = (advise([scores(**table)], "quality").chosen for table in (told, equal))
    assert apart is not None and apart.name == "s1_local_ar"
    assert same is not None and same.name == "s2_parallel", "the intervals overlap: the speed decides"


def test_what_nobody_understands_is_recommended_with_a_warning() -> None:
    advice = advise([scores()], "throughput")
    assert advice.chosen is not None and advice.chosen.name == "s2_parallel"
    assert advice.reasons[0].startswith("WARNING: nobody will understand it: 60.0 % of its words are wrong.")
    assert "WARNING" not in " ".join(advise([scores()], "quality").reasons)


@pytest.mark.espnet
def test_the_yaml_of_a_recommendation_makes_the_very_codes_that_were_measured(
    experiment: Path, corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("espnet2")
    from espnet_ext.bin import codec_lm_inference
    from espnet_ext.scoring.evaluate import decoding_of
    from espnet_ext.scoring.system import load_system

    common = ["--exp", str(experiment), "--data_dir", str(corpus / "dev")]
    given = {"decoding": "local_maskgit", "decoding_conf": {"n_rounds": 2}, "sampling": {"top_k": 5}}
    config = tmp_path / "decode.yaml"
    for number, more in enumerate(({}, {"seed": 7, "maxlenratio": 1.3, "min_frames": 5})):
        first, second = tmp_path / f"first{number}", tmp_path / f"second{number}"
        config.write_text(yaml.safe_dump({**given, **more}))
        codec_lm_inference.main([*common, "--inference_config", str(config), "--output_dir", str(first)])
        decoding = decoding_of(load_system("s2_local_maskgit", first, read_scp(corpus / "dev/text")))
        chosen = Candidate("s2_local_maskgit", {}, {}, decoding, 16)
        config.write_text(recommend.decode_yaml(Advice(chosen, [], {})))
        codec_lm_inference.main([*common, "--inference_config", str(config), "--output_dir", str(second)])
        assert (first / "codes.ark").read_bytes() == (second / "codes.ark").read_bytes()


def test_the_worst_test_set_counts() -> None:
    other = scores(s1_local_ar=(0.45, 0.02, 0.2, 0.06, 700.0))
    advice = advise([scores(), other], "quality")
    assert advice.chosen is not None and advice.chosen.name == "s1_local_maskgit_n_rounds-3"


def test_what_was_not_measured_is_never_taken_for_good() -> None:
    unheard = {name: (None, 0.0, *values[2:]) for name, values in TABLE.items()}
    advice = advise([scores(**unheard)], "latency", [Limit("wer", 50)])
    assert advice.chosen is None
    assert set(advice.excluded.values()) == {"WER % at most 50 cannot be judged: it was not measured"}
    assert advice.reasons == ["WER % at most 50 cannot be judged: nobody's was measured."]
    assert advise([scores(**unheard)], "quality").chosen is None, "without error rates nothing can be ranked by them"
    speed = advise([scores(**unheard)], "latency").chosen
    assert speed is not None and speed.name == "s2_local_ar", "equal speed: the Fréchet distance decides"


def test_impossible_limits_say_who_comes_nearest() -> None:
    advice = advise([scores()], "latency", [Limit("wer", 5), Limit("rtf", 0.01)])
    assert advice.chosen is None
    assert advice.reasons[0] == "WER % at most 5: met by 0 of 5; the nearest is s1_local_ar with 20.0."
    assert advice.reasons[1] == "RTF at most 0.01: met by 0 of 5; the nearest is s2_parallel with 0.029."


def test_files_without_systems_and_unknown_targets_are_refused() -> None:
    empty = Scores()
    with pytest.raises(ValueError, match="scores must have systems that a language model made, got none"):
        advise([empty], "latency")
    with pytest.raises(ValueError, match=r"target must be one of \['latency', 'throughput', 'quality'\], got 'beauty'"):
        advise([scores()], "beauty")


def test_command_prints_sentences_a_yaml_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.json"
    write_scores(scores(), path)
    recommend.main([str(path), "--target", "latency", "--max_wer", "23"])
    text = capsys.readouterr().out
    assert text.startswith("Use s1_local_maskgit_n_rounds-3: S = 1, local_maskgit_n_rounds-3.")
    assert "  n_rounds: 3" in text and "- excluded, WER % at most 23 is not met: 3 (" in text
    recommend.main([str(path), "--target", "quality", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == "s1_local_ar" and found["values"]["wer"] == 0.2
    with pytest.raises(ValueError, match="limits must leave a system to recommend"):
        recommend.main([str(path), "--target", "quality", "--max_rtf", "0.001"])
    assert "Nothing keeps to all limits." in capsys.readouterr().out
