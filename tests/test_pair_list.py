"""A list of pairs, prompt and text, as a test set: what is read, what is refused, what the page says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import yaml
from test_recipes import Recipe, copy_recipes, value_of, values_of

from espnet_ext.data.datadir import read_scp, read_skipped
from espnet_ext.errors import UserError
from espnet_ext.scoring.measures.bootstrap import Resamples
from espnet_ext.scoring.measures.speaker import speaker_scores
from espnet_ext.scoring.scores import (
    Decoding,
    ErrorRate,
    Mean,
    ReferenceFacts,
    Scores,
    SpeakerScores,
    SystemScores,
    write_scores,
)
from espnet_ext.scoring.system import Reference, System

ROOT = Path(__file__).resolve().parent.parent
# fabricated: ids, durations and texts of nobody
LINES = [
    "61-7-0001\t4.2\tA prompt's own words.\t61-7-0002\t5.0\tIt is Tuesday, they said.",
    "61-7-0002\t5.0\tIt is Tuesday; they said!\t61-7-0003\t6.5\tAnd it rained.",
    "77_8_000001\t3.5\tSeven boats\t77_8_000002\t4.5\tcame home late",
]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "local"))
    try:
        return {name: importlib.import_module(name) for name in ("pair_list", "pairs_dir", "pair_results")}
    finally:
        sys.path.remove(str(ROOT / "local"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Recordings in LibriSpeech's folders, in LibriTTS's, and one of a speaker's without any."""
    for name in ("61/7/61-7-0001.flac", "61/7/61-7-0002.flac", "61-7-0003.wav", "77/8/77_8_000001.wav"):
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(160), 16000)
    return tmp_path / "audio"


def listed(folder: Path, lines: list[str]) -> Path:
    path = folder / "cross sentence.lst"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_list_becomes_a_data_directory_with_the_prompts_that_it_fixes(
    scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data" / "pairs"
    scripts["pairs_dir"].write_pairs_dir(listed(tmp_path, LINES), corpus, "listed", out)
    assert read_scp(out / "utt2prompt") == {"61-7-0002": "61-7-0001", "61-7-0003": "61-7-0002"}
    assert read_scp(out / "text") == {
        "61-7-0001": "A prompt's own words.",
        "61-7-0002": "It is Tuesday, they said.",  # as a target; as a prompt it is written otherwise
        "61-7-0003": "And it rained.",
    }
    assert read_scp(out / "wav.scp")["61-7-0003"] == str(corpus / "61-7-0003.wav")
    assert set(read_scp(out / "utt2spk").values()) == {"61"}
    assert read_skipped(out / "skipped") == {
        "77_8_000002": f"missing audio: cross sentence.lst:3: 77_8_000002 not in {corpus}"
    }
    assert read_scp(out / "pair_list")["pairs"] == "3"
    scripts["pairs_dir"].write_pairs_dir(listed(tmp_path, LINES), corpus, "words", out)
    assert read_scp(out / "text")["61-7-0002"] == "it is tuesday they said"


def test_the_digest_is_of_prompts_targets_and_texts_in_any_order(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    def digest(lines: list[str]) -> str:
        return scripts["pair_list"].list_digest(scripts["pair_list"].read_pairs(listed(tmp_path, lines)))

    assert digest(LINES) == digest([LINES[2], "", *LINES[:2]]) == digest([LINES[0].replace("4.2", "4.25"), *LINES[1:]])
    assert digest(LINES) != digest([LINES[0].replace("Tuesday", "Monday"), *LINES[1:]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("61-7-0001\t4.2\tWords\t61-7-0009\t5.0", "must have 6 columns separated by tabs"),
        ("61-7-0001 4.2 Words 61-7-0009 5.0 Words", "got 1"),
        ("../../etc/passwd\t4.2\tWords\t61-7-0009\t5.0\tWords", "prompt id must be letters, digits, '.', '_' and '-'"),
        ("61-7-0001\t4.2\tWords\t..\t5.0\tWords", "target id must be letters"),
        ("61-7-0001\tlong\tWords\t61-7-0009\t5.0\tWords", "prompt seconds must be a number above 0, got 'long'"),
        ("61-7-0001\t4.2\tWords\t61-7-0009\tnan\tWords", "target seconds must be a number above 0, got 'nan'"),
        ("61-7-0001\t4.2\tWords\t61-7-0009\t5.0\t ", "target text must be a text without control characters"),
        ("61-7-0001\t4.2\tW\x1b[2J\t61-7-0009\t5.0\tWords", "prompt text must be a text without control"),
        ("61-7-0001\t4.2\tWords\t61-7-0002\t5.0\tWords", "61-7-0002 is a duplicate of line 1"),
        ("61-7-0009\t4.2\tWords\t61-7-0009\t5.0\tWords", "the prompt must be another recording than the target"),
        ("77_8_000001\t4.2\tWords\t61-7-0009\t5.0\tWords", "the prompt must be of the target's speaker"),
    ],
)
def test_a_line_that_is_no_pair_is_named_with_its_file_and_counted(
    scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path, line: str, message: str
) -> None:
    path = listed(tmp_path, [*LINES, line, line])
    with pytest.raises(UserError) as caught:
        scripts["pairs_dir"].write_pairs_dir(path, corpus, "listed", tmp_path / "out")
    assert message in str(caught.value) and f"{path}:4: " in str(caught.value) and f"{path}:5: " in str(caught.value)
    assert str(caught.value).startswith("2 of 5 lines are no pairs: ") and "\x1b" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_list_and_a_folder_without_its_recordings_are_refused(
    scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path
) -> None:
    write, path = scripts["pairs_dir"].write_pairs_dir, listed(tmp_path, LINES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--pair_audio must hold .*: 3 missing audio \(61-7-0002, "):
        write(path, tmp_path / "empty", "listed", tmp_path / "out")
    with pytest.raises(UserError, match="--pair_audio must be the folder of the recordings, got "):
        write(path, tmp_path / "nowhere", "listed", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="--pair_list must be an existing file, got "):
        write(tmp_path / "no.lst", corpus, "listed", tmp_path / "out")
    path.write_text("\n\n")
    with pytest.raises(UserError, match="must list pairs, got none"):
        write(path, corpus, "listed", tmp_path / "out")
    path.write_bytes(LINES[0].encode("utf-16"))
    with pytest.raises(UserError, match="1 of 1 lines are no pairs: .*:1: must be UTF-8, got byte 0xff"):
        write(path, corpus, "listed", tmp_path / "out")


def test_the_page_names_evaluators_seeds_intervals_and_what_was_left_out(
    scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    scripts["pairs_dir"].write_pairs_dir(listed(tmp_path, LINES), corpus, "listed", data)
    system = SystemScores(
        utterances=6,
        wer=ErrorRate(rate=0.05, interval=(0.04, 0.06)),
        speaker=SpeakerScores(own=0.9, prompt=Mean(0.612, (0.6, 0.62), 6)),
        measures={"dnsmos_ovrl": Mean(3.1, (3.0, 3.2), 6), "mcd": Mean(5.0, (4.0, 6.0), 6)},
        decoding=Decoding("local_ar", {}, {}, 1, seeds=[0, 1, 2]),
    )
    environment = {
        "date": "2026-11-30",
        "recogniser": "faster_whisper model=large-v3",
        "speaker encoder": "resemblyzer",
    }
    scores = Scores(
        title="pairs <b>",
        environment=environment,
        reference=ReferenceFacts(utterances=2),
        systems={"s1_local_ar": system},
        unavailable={"utmos": "utmos_pytorch is not installed: pip install utmos-pytorch"},
        settings={"resamples": 1000, "seed": 0},
    )
    write_scores(scores, tmp_path / "scores.json")
    scripts["pair_results"].write_page(tmp_path / "scores.json", [data, tmp_path / "raw"], tmp_path / "pairs.md")
    page = (tmp_path / "pairs.md").read_text()
    assert "|s1_local_ar|0 1 2|6|5.0|4.0 … 6.0|0.612|0.600 … 0.620|3.10|3.00 … 3.20|" in page
    assert "2 of 3 were said; left out: 1 missing audio (77_8_000002)" in page
    assert "recogniser: faster_whisper model=large-v3" in page and "UTMOS: utmos_pytorch is not installed" in page
    assert "1000 bootstrap resamples (seed 0)" in page and "MCD" not in page and "<b>" not in page


def test_similarity_to_the_prompt_is_to_its_own_recording_and_of_those_that_were_given_it(tmp_path: Path) -> None:
    texts = {"a-1": "one", "a-2": "two"}
    given = {"a-1": "a-9", "a-2": "a-1"}
    speakers = dict.fromkeys(texts, "a")
    reference = Reference(directory=tmp_path, transcripts=texts, utt2spk=speakers, targets=speakers, prompts=given)
    own = {"a-1": np.array([1.0, 0.0]), "a-2": np.array([0.0, 1.0])}
    prompts = {"a-1": np.array([0.6, 0.8]), "a-2": np.array([0.8, 0.6])}
    voices = [{one: prompts[one] for one in texts}, {"a-1": np.array([0.8, 0.6])}]

    def scored(told: dict[str, str] | None) -> Mean:
        one = System(
            name="x", directory=tmp_path, whole={}, has_own_codes=False, status=None, timing={}, prompts=told
        )  # fmt: skip
        system = replace(one, repeats=(one,))
        return speaker_scores(system, reference, voices, (own, prompts), Resamples.draw(["a", "a"], 20, 0)).prompt

    assert scored(None).value == pytest.approx((1 + 1 + 0.96) / 3) and scored(None).utterances == 3
    assert scored(given) == scored(None)
    assert scored({**given, "a-1": "b-1"}).utterances == 1, "the other one was given another prompt"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return copy_recipes(tmp_path, "mini_libritts")


def test_run_sh_takes_the_list_as_one_more_test_set_and_reads_it_again_every_time(recipe: Recipe) -> None:
    (recipe.root / "my.cross sentence.lst").write_text(LINES[0])
    (recipe.root / "audio").mkdir()
    options = ("--pair_list", "my.cross sentence.lst", "--pair_audio", "audio", "--decodings", "parallel")
    recipe.run(*options, "--stacking", "1")
    calls = {Path(call[1] if call[0] == "-m" else call[0]).name: call for call in recipe.calls()}
    assert value_of(calls["pairs_dir.py"], "--pair_list") == f"{recipe.root}/my.cross sentence.lst"
    assert value_of(calls["pairs_dir.py"], "--text") == "words"
    assert value_of(calls["pairs_dir.py"], "--out") == "data/pairs_my.cross_sentence"
    assert value_of(calls["espnet_ext.bin.evaluate"], "--reference").endswith("/pairs_my.cross_sentence")
    assert any("parallel=exp/" in one for one in values_of(calls["espnet_ext.bin.evaluate"], "--system"))
    assert value_of(calls["pair_results.py"], "--out") == "exp/pairs_my.cross_sentence.md"
    text = recipe.run(*options, "--stacking", "1")
    again = [Path(name).name for name in recipe.programs()]
    assert again == ["pairs_dir.py", "check_words.py", "pair_results.py"], text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pair_list", "no.lst"], "--pair_list must be an existing file, got 'no.lst'"),
        (["--pair_list", "a.lst"], "--pair_audio must be the folder of the recordings of --pair_list, got ''"),
        (["--pair_audio", "."], "--pair_audio must come with --pair_list"),
        (
            ["--pair_list", "a.lst", "--pair_audio", ".", "--pair_text", "loud"],
            "--pair_text must be listed or words, got 'loud'",
        ),
    ],
)
def test_run_sh_refuses_a_list_that_is_not_there_before_any_work(
    recipe: Recipe, options: list[str], message: str
) -> None:
    (recipe.root / "a.lst").write_text(LINES[0])
    assert message in recipe.run(*options, status=2)
    assert recipe.calls() == []


def test_the_configuration_for_versa_has_the_form_that_its_scorer_reads() -> None:
    """Metrics by name; those for which VERSA wants a reference or a text are told apart in docs/evaluation.md."""
    entries = yaml.safe_load((ROOT / "conf" / "versa.yaml").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in entries] == ["whisper_wer", "speaker", "pseudo_mos", "mcd_f0"]
    assert entries[2]["predictor_types"] == list(entries[2]["predictor_args"])
    evaluation = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert all(f"`{entry['name']}`" in evaluation for entry in entries)


def test_the_script_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.lst").write_text("\n".join(f"{number}" for number in range(9)))
    command = [
        sys.executable,
        str(ROOT / "local" / "pairs_dir.py"),
        "--pair_list",
        "a.lst",
        "--audio",
        ".",
        "--out",
        "d",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: 9 of 9 lines are no pairs: a.lst:1: must have 6")
    assert done.stderr.count("a.lst:") == 5 and done.stderr.endswith("; …\n")
