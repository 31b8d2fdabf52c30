"""Codes survive the trip through a Kaldi archive, and trouble is one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from espnet_ext.data.ark import codes_writer, load_codes_entry, read_codes, units_writer

pytest.importorskip("kaldiio")

CODES = {
    "a-1": np.arange(12).reshape(4, 3),
    "a-2": np.array([[1023, 0, 5]]),
    "b-1": np.arange(300, 306, dtype=np.int16).reshape(2, 3),
}


def write_all(directory: Path, table: Mapping[str, np.ndarray] = CODES, fail: bool = False) -> None:
    with codes_writer(directory) as write:
        for utterance, codes in table.items():
            write(utterance, codes)
        if fail:
            raise RuntimeError


def test_codes_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_all(tmp_path)
    table = read_codes(tmp_path / "codes.scp", num_codebooks=3)
    assert list(table) == list(CODES)
    assert len(table) == 3
    for utterance, codes in CODES.items():
        assert table[utterance].dtype == np.int64
        assert np.array_equal(table[utterance], codes)
    assert (tmp_path / "utt2num_frames").read_text() == "a-1 4\na-2 1\nb-1 2\n"
    assert sorted(os.listdir(tmp_path)) == ["codes.ark", "codes.scp", "utt2num_frames"]


def test_scp_names_the_final_archive_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_all(Path("dump/my set"))
    assert (tmp_path / "dump/my set/codes.scp").read_text().startswith("a-1 dump/my set/codes.ark:")
    assert np.array_equal(read_codes("dump/my set/codes.scp", 3)["b-1"], CODES["b-1"])


def test_an_interrupted_writer_keeps_the_old_codes(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(RuntimeError):
        write_all(tmp_path, {"a-1": np.zeros((7, 3), dtype=np.int64)}, fail=True)
    assert np.array_equal(read_codes(tmp_path / "codes.scp", 3)["a-1"], CODES["a-1"])
    assert sorted(os.listdir(tmp_path)) == ["codes.ark", "codes.scp", "utt2num_frames"]


def test_the_other_library_reads_and_writes_the_same_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaldi = pytest.importorskip("omniio.kaldi")
    write_all(tmp_path / "first")
    monkeypatch.setattr("espnet_ext.data.ark._backend", lambda: kaldi)
    write_all(tmp_path / "second")
    assert (tmp_path / "first/codes.ark").read_bytes() == (tmp_path / "second/codes.ark").read_bytes()
    assert np.array_equal(read_codes(tmp_path / "first/codes.scp", 3)["b-1"], CODES["b-1"])


def test_ids_out_of_order_and_empty_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="C-locale order, got a after b"):
        write_all(tmp_path, {"b": CODES["a-1"], "a": CODES["a-1"]})
    with pytest.raises(ValueError, match=r"got shape \(0, 3\)"):
        write_all(tmp_path, {"a": np.zeros((0, 3), dtype=np.int64)})
    with pytest.raises(ValueError, match="no comma"):
        write_all(tmp_path / "a,b")


def test_a_wrong_pointer_is_a_one_line_error(tmp_path: Path) -> None:
    write_all(tmp_path)
    pointer = (tmp_path / "codes.scp").read_text().split()[1]
    for bad, kind, message in (
        (f"{tmp_path}/other.ark:5", FileNotFoundError, "codes archive not found: .*other.ark"),
        (f"{tmp_path}/codes.ark:6", ValueError, "codes"),
        (f"{tmp_path}/codes.ark:999999", ValueError, "codes"),
    ):
        with pytest.raises(kind, match=message) as caught:
            load_codes_entry(bad, 3)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="integers of 7 codebooks"):
        load_codes_entry(pointer, 7)


def test_units_are_codes_of_one_codebook(tmp_path: Path) -> None:
    with units_writer(tmp_path) as write:
        write("a-1", np.array([5, 5, 2]))
        write("a-2", np.array([9999]))
    assert (tmp_path / "utt2num_units").read_text() == "a-1 3\na-2 1\n"
    table = read_codes(tmp_path / "semantic.scp", num_codebooks=1)
    assert [table[utterance].tolist() for utterance in table] == [[[5], [5], [2]], [[9999]]]


@pytest.mark.parametrize("bad", [np.zeros(0, np.int32), np.zeros((3, 1), np.int32)])
def test_units_of_another_shape_are_refused(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"units of a-1 must be \(T,\) with T > 0"), units_writer(tmp_path) as write:
        write("a-1", bad)
    assert not (tmp_path / "semantic.scp").exists()
