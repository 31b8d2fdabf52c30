"""What is made of a corpus: speakers, duplicates, sets, the page about it, and the options that suit it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricated_corpora import RATE_HZ, sentence, tone, write_beside, write_table, write_tone
from test_corpora import PLAIN, reasons, survey

from espnet_ext.data.corpora.sizes import choose_size, choose_text
from espnet_ext.data.corpora.sound import sound_of
from espnet_ext.data.corpora.survey import skipped_of_kind, split
from espnet_ext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("how", "speakers"),
    [("auto", {"speaker"}), ("one", {"speaker"}), ("folder", {"anna", "day_1"}), ("prefix", {"anna", "berta"})],
)
def test_speakers_come_from_folders_or_prefixes(tmp_path: Path, how: str, speakers: set[str]) -> None:
    store = survey(write_beside(tmp_path), speaker_from=how)
    assert {name for (name,) in store.execute("SELECT speaker FROM usable")} == speakers


def test_a_speaker_that_the_corpus_does_not_name_is_not_invented(tmp_path: Path) -> None:
    root = write_table(tmp_path, ["id|text|speaker", "u000|one|anna", "u001|two|"], audio=2)
    store = survey(root, speaker_from="column")
    assert reasons(store) == {"u001": "no speaker: metadata.csv:3, --speaker_from column"}
    with pytest.raises(UserError, match="--speaker_from must be one of"):
        survey(root, speaker_from="hat")


def test_audio_that_is_unusable_or_there_again_is_skipped_by_name(tmp_path: Path) -> None:
    root = write_table(
        tmp_path,
        [*PLAIN, "same|" + sentence(5), "other|not that sentence", "bad|bad", "short|short", "empty|", "dots|…"],
        audio=30,
    )
    wavs = root / "wavs"
    shutil.copyfile(wavs / "u005.wav", wavs / "same.wav")
    shutil.copyfile(wavs / "u006.wav", wavs / "other.wav")
    (wavs / "bad.wav").write_bytes(b"RIFF, but not for long")
    write_tone(wavs / "short.wav", 50, 0.1)
    for name in ("empty", "dots"):
        write_tone(wavs / f"{name}.wav", 60 + len(name))
    found = reasons(survey(root))
    assert found.pop("bad").startswith("unreadable wav: ")
    assert found == {
        "u005" if "u005" in found else "same": f"duplicate audio: the same as {'same' if 'u005' in found else 'same'}",
        "u006": "two texts for one audio: the same as other",
        "other": "two texts for one audio: the same as other",
        "short": "too short: 0.1 s",
        "empty": "empty transcript: metadata.csv:35",
        "dots": "nothing to say: … of metadata.csv:36",
    }


def test_no_sentence_is_in_two_sets_and_more_recordings_move_none(tmp_path: Path) -> None:
    def sets(root: Path) -> dict[str, str]:
        store = survey(root)
        split(store)
        found: dict[str, set[str]] = {}
        for text, part in store.execute("SELECT lower(replace(text, '.', '')), part FROM usable"):
            found.setdefault(text, set()).add(part)
        assert all(len(parts) == 1 for parts in found.values())
        return {text: parts.pop() for text, parts in found.items()}

    before = sets(write_table(tmp_path / "once", PLAIN))
    again = [f"v{number:03d}|{sentence(number).upper()}." for number in range(0, 30, 2)]
    root = write_table(tmp_path / "again", [*PLAIN, *again], audio=30)
    for number in range(0, 30, 2):
        write_tone(root / "wavs" / f"v{number:03d}.wav", 100 + number)
    after = sets(root)
    assert set(before) == set(after) and {"train", "dev", "test"} == set(before.values())
    assert sum(part == "test" for part in before.values()) == 3
    assert [text for text in before if before[text] == "test" and after[text] == "train"] == []


def test_too_few_sentences_are_refused_with_what_was_skipped(tmp_path: Path) -> None:
    store = survey(write_table(tmp_path, ["u000|one", "u001|One.", "gone|two"], audio=2))
    with pytest.raises(UserError, match="at least three different sentences .* got 1; skipped: 1 text without audio"):
        split(store)
    assert list(skipped_of_kind(store, "text without audio", 3))[0][0] == "gone"


def test_the_sounds_of_a_sample_tell_clipping_and_silence() -> None:
    quiet = np.zeros(RATE_HZ // 2)
    found = sound_of(np.concatenate([quiet, tone(1, 1.0), quiet[: RATE_HZ // 4]]), RATE_HZ)
    assert found.lead_sec == pytest.approx(0.5, abs=0.03) and found.trail_sec == pytest.approx(0.25, abs=0.03)
    assert not found.clipped and -15 < found.level_db < -12
    assert sound_of(np.clip(5 * tone(1, 1.0), -1, 1), RATE_HZ).clipped


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path; from espnet_ext.data.corpora import *; "
        "from espnet_ext.data.corpora.survey import *; "
        "root = Path(sys.argv[1]); store = open_store(); rules = Rules(); "
        "gather(store, find_layout('auto', root)(Source(root)), rules); measure(store, rules); skip_duplicates(store); "
        "split(store); write_sets(store, root / 'data'); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (500, 10_000):
        root = tmp_path / str(count)
        (root / "wavs").mkdir(parents=True)
        whole = write_tone(root / "wavs" / "r.wav", 1, 60.0)
        (root / "wav.scp").write_text(f"r {whole}\n")
        (root / "text").write_text("".join(f"u{n:06d} {sentence(n)} {n % 977} number {n}\n" for n in range(count)))
        (root / "segments").write_text(
            "".join(f"u{n:06d} r {n % 50 + n / 1e6:.6f} {n % 50 + 3}\n" for n in range(count))
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 30_000  # kB: the database's own cache, which stays as it is


def test_the_size_follows_the_hours_and_the_tokens_follow_the_words(tmp_path: Path) -> None:
    assert [choose_size(hours)[0] for hours in (0.3, 2, 20, 200)] == ["20min", "2h", "20h", "200h"]
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "lazy",
        "dogs",
        "while",
        "birds",
        "sing",
        "every",
        "river",
    ]

    def tokens(name: str, texts: list[str], language: str = "") -> tuple[str, str, int]:
        rows = [f"u{number:03d}|{text}" for number, text in enumerate(texts)]
        store = survey(write_table(tmp_path / name, rows), language=language)
        choice = choose_text(store)
        return choice.token_type, choice.g2p, store.execute("SELECT count(*) FROM usable").fetchone()[0]

    english = [f"{one} {other} dog's" for one in words for other in words]
    assert tokens("english", english[:40]) == ("phn", "cmudict", 40)
    assert tokens("german", english[:40], "de") == ("char", "none", 40)
    assert tokens("odd", [f"xyzzq {text}" for text in english[:40]]) == ("char", "none", 40)
    assert tokens("nearly", [*english[:99], "the xyzzq"])[2] in (99, 100)


def check(tmp_path: Path, corpus: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "local" / "corpus_dir.py"), "--corpus", str(corpus), "--datadir", "data"]
    done = subprocess.run(
        [*command, "--conf_dir", str(ROOT / "conf"), *options], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.espnet
def test_the_page_says_everything_and_is_a_file_too(tmp_path: Path) -> None:
    rows = [*PLAIN, "gone|there is no audio", "u031|three columns|are too many"]
    root = write_table(tmp_path / "corpus", rows, audio=31)
    loud = root / "wavs" / "u001.wav"
    import soundfile

    soundfile.write(loud, np.clip(9 * tone(1, 2.0), -1, 1), RATE_HZ)
    page = check(tmp_path, root)
    assert (tmp_path / "data" / "report.md").read_text() == page
    for words in (
        "Layout table: metadata.csv, columns separated by '|', no header: id = column 1, text = column 2.",
        "30 utterances, 16.5 s, 30 different sentences.",
        "1 speaker: speaker (30, 16.5 s).",
        "50 % 0.5 s",
        "Formats: 16000 Hz, 1 channel: 30.",
        "Measured on every utterance",
        "Clipped: 1 (u001).",
        "characters in lower case",
        "Rare, fewer than 10 times: ",
        "- **1 3 columns instead of 2**: metadata.csv:32",
        "- **1 audio without text**: wavs/u030.wav",
        "- **1 text without audio**: gone of metadata.csv:31 is not in",
        "Size 20min: 0.00 h of training data are up to 0.8 h; `train_own_20min.yaml`",
        "| base | 5.2 M | 1600 |",
        "Together about **",
        "- 16.5 s are little for a voice: begin with another voice's experiment, --init_from EXP.",
        "1 of 30 are clipped",
    ):
        assert words in page, page
    assert len(page.splitlines()) < 90
    chosen = (tmp_path / "data" / "chosen_options").read_text().split()
    assert chosen[:4] == [
        "--train_config",
        "conf/train_own_20min.yaml",
        "--base_config",
        "conf/train_own_20min_base.yaml",
    ]
    assert len((tmp_path / "data" / "skipped").read_text().splitlines()) == 3


@pytest.mark.espnet
def test_what_cannot_be_read_at_all_is_one_line(tmp_path: Path) -> None:
    assert check(tmp_path, tmp_path / "no").startswith("error: --corpus must be a folder, got ")
    root = write_table(tmp_path / "corpus", ["u000;hello"])
    assert "metadata.csv:1: must have two columns or more" in check(tmp_path, root)
    told = check(tmp_path, root, "--audio_dir", f"{root} gone")
    assert told == "error: --audio_dir must be folders separated by spaces, got gone, which is none\n"
