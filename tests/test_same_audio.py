"""Outputs of the same content are measured once, and it is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_score_stage import HearingCodec, ToyCodec, test_set  # noqa: F401 (a fixture)

from espnet_ext.scoring.evaluate import evaluate
from espnet_ext.scoring.measures import same_audio
from espnet_ext.scoring.scores import Scores
from espnet_ext.scoring.settings import Settings
from espnet_ext.scoring.system import load_reference, load_system
from espnet_ext.scoring.tables.report import results_page


def scored(names: dict[str, str]) -> Scores:
    reference = load_reference(Path("reference"))
    systems = [load_system(name, Path(folder), reference.transcripts) for name, folder in names.items()]
    return evaluate(reference, systems, ToyCodec(), Settings(resamples=20, mos=(), codec_info=Path("codec_info.yaml")))


def test_copy_of_a_system_costs_nothing_has_its_scores_and_is_remarked_upon(
    test_set: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("codec_info.yaml").write_text("")
    monkeypatch.setattr("espnet_ext.scoring.measures.frame_codes.codec_of", lambda path: HearingCodec())
    shutil.copytree("exp/decode_x", "exp/decode_z")
    for name, strategy in (("x", "local_ar"), ("z", "local_speculative")):
        costs = {"rtf": 0.25, "steps": 40, "decoding": strategy}
        Path(f"exp/decode_{name}/set/timing.json").write_text(json.dumps(costs))
    asked: list[int] = []
    real = same_audio.run_groups

    def counting(work, groups, workers):
        asked.append(sum(map(len, groups.values())))
        return real(work, groups, workers)

    monkeypatch.setattr(same_audio, "run_groups", counting)
    alone = scored({"x": "exp/decode_x/set"})
    before = list(asked)
    asked.clear()
    result = scored({"x": "exp/decode_x/set", "z": "exp/decode_z/set"})
    assert asked == before == [4, 4, 4, 4], "codes, words, voices, which are the recordings', and alignments"
    left_out = ("directory", "timing", "decoding", "repeats", "same_codes_as")
    x, z = ({key: value for key, value in vars(result.systems[one]).items() if key not in left_out} for one in "xz")
    assert x == z == {key: value for key, value in vars(alone.systems["x"]).items() if key not in left_out}
    assert [result.systems[one].same_codes_as for one in "xz"] == [None, "x"]
    page = results_page([replace(result, environment={"date": "2026"})], Path())
    assert "- z has the very codes of x: its audio was measured with that one's\n" in page
