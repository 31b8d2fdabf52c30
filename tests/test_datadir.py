"""Kaldi-style tables: what is written can be read, and what is broken is named with its file and line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from espnet_ext.data.ark import codes_writer, read_codes
from espnet_ext.data.datadir import read_scp, skipped_summary, write_data_dir, write_scp, write_skipped
from espnet_ext.storage.yaml_files import read_yaml


def test_a_written_table_is_read_back_in_c_locale_order(tmp_path: Path) -> None:
    table = {"b_1": "x y  z", "B_1": "upper case sorts first", "b-1": "café", "b1": "1"}
    write_scp(tmp_path / "text", table)
    assert list(read_scp(tmp_path / "text")) == ["B_1", "b-1", "b1", "b_1"]
    assert read_scp(tmp_path / "text") == table


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    write_scp(tmp_path / "wav.scp", {})
    assert read_scp(tmp_path / "wav.scp") == {}


def test_an_empty_transcript_is_kept_only_when_asked_for(tmp_path: Path) -> None:
    write_scp(tmp_path / "text", {"a": "", "b": "two"})
    assert read_scp(tmp_path / "text", allow_empty=True) == {"a": "", "b": "two"}
    with pytest.raises(ValueError, match=r"text:1: must be a key and a value, got 'a'"):
        read_scp(tmp_path / "text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\na 2\n", "text:2: a is a duplicate"),
        (b"b 1\na 2\n", "text:2: must be sorted as in the C locale"),
        (b"a 1\n\nb 2\n", "text:2: must be a key and a value"),
        (b"a 1\nb \xff\n", "text:2: must be UTF-8, got byte 0xff"),
        (b"\na 1\n", "text:1: must be a key and a value"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_scp(tmp_path / "text")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"utt2spk is missing"):
        read_scp(tmp_path / "utt2spk")


@pytest.mark.parametrize("table", [{"two words": "x"}, {"": "x"}, {"a": "two\nlines"}])
def test_a_table_that_could_not_be_read_back_is_not_written(tmp_path: Path, table: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be one"):
        write_scp(tmp_path / "text", table)
    assert not list(tmp_path.iterdir())


def test_a_data_directory_holds_the_utterances_of_its_wav_scp(tmp_path: Path) -> None:
    text = {"a-1": "one", "a-2": "two", "b-1": "dropped"}
    write_data_dir(tmp_path, {"a-2": "2.wav", "a-1": "1.wav", "a-3": "3.wav"}, text, {f"a-{n}": "a" for n in range(9)})
    assert read_scp(tmp_path / "text") == {"a-1": "one", "a-2": "two"}
    assert read_scp(tmp_path / "spk2utt") == {"a": "a-1 a-2 a-3"}
    assert list(read_scp(tmp_path / "utt2spk")) == list(read_scp(tmp_path / "wav.scp")) == ["a-1", "a-2", "a-3"]


def test_an_utterance_without_speaker_is_refused_and_its_id_need_not_begin_with_the_speaker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must name the speaker of every utterance, got none for a-1"):
        write_data_dir(tmp_path, {"a-1": "1.wav"}, {}, {})
    write_data_dir(tmp_path, {"1": "1.wav", "2": "2.wav"}, {}, {"1": "b", "2": "a"})
    assert (tmp_path / "spk2utt").read_text() == "a 2\nb 1\n"


def test_a_table_that_a_user_wrote_may_be_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("b 1\na 2\n")
    assert list(read_scp(tmp_path / "text", in_order=False).items()) == [("a", "2"), ("b", "1")]


def test_skipped_items_are_listed_and_counted_by_reason(tmp_path: Path) -> None:
    skipped = {"b": "too short: 0.01 s", "a": "too short: 0.02 s", "c": "unreadable wav: two\nlines"}
    write_skipped(tmp_path / "skipped", skipped)
    assert (
        tmp_path / "skipped"
    ).read_text() == "a\ttoo short: 0.02 s\nb\ttoo short: 0.01 s\nc\tunreadable wav: two lines\n"
    assert skipped_summary(skipped, most=1) == "2 too short (a, …), 1 unreadable wav (c)"


def test_paths_of_a_table_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, elsewhere = tmp_path / "recipe", tmp_path / "elsewhere"
    (recipe / "dump/train").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(recipe)
    with codes_writer(Path("dump/train")) as write:
        write("a", np.ones((3, 2), dtype=np.int32))
    assert read_scp("dump/train/codes.scp")["a"].startswith("dump/train/codes.ark:")
    monkeypatch.chdir(elsewhere)
    assert read_codes("../recipe/dump/train/codes.scp", 2)["a"].tolist() == [[1, 1]] * 3
    shutil.copytree(recipe / "dump", elsewhere / "dump")
    with codes_writer(elsewhere / "dump/train") as write:
        write("a", np.zeros((3, 2), dtype=np.int32))
    assert read_codes("../recipe/dump/train/codes.scp", 2)["a"].tolist() == [[1, 1]] * 3, "not the one of this place"
    shutil.rmtree(elsewhere / "dump")
    (tmp_path / "wav.scp").write_text(f"a {'x' * 300} |\n")
    assert read_scp(tmp_path / "wav.scp")["a"].endswith("x |")
    (recipe / "dump/train/codes.ark").unlink()
    assert read_scp("../recipe/dump/train/codes.scp")["a"].startswith("dump/train/codes.ark:"), "as it was written"


@pytest.mark.parametrize("name", ["text", "wav.scp", "utt2spk"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path, name: str) -> None:
    """The first key was another one than in the other tables, and every table with it "must be sorted"."""
    (tmp_path / name).write_text("p01_25 x\np01_26 y\n", encoding="utf-8-sig")
    assert read_scp(tmp_path / name) == {"p01_25": "x", "p01_26": "y"}
    (tmp_path / "some.yaml").write_text("seed: 1\n", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "some.yaml", "some") == {"seed": 1}


def test_keys_in_messages_show_what_cannot_be_seen(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("b x\na\u200b y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"got 'a\\u200b' after b$"):
        read_scp(tmp_path / "text")
    (tmp_path / "text").write_text("scho\u0308n x\nscho\u0308n y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text:2: 'scho\\u0308n' is a duplicate"):
        read_scp(tmp_path / "text")
    assert skipped_summary({"a\u200b": "missing wav"}) == r"1 missing wav ('a\u200b')"
