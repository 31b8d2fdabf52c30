"""Codes survive the trip through a Kaldi archive, and trouble is one line."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCHIVES

from espnet_ext.data.ark import LIBRARIES, codes_writer, load_codes_entry, read_codes, units_writer
from espnet_ext.data.datadir import read_scp
from espnet_ext.data.inputs.checks import check_data
from espnet_ext.data.kaldi import read_entry
from espnet_ext.errors import UserError

pytest.importorskip(ARCHIVES)

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


def bytes_of(table: Mapping[str, np.ndarray]) -> bytes:
    """An archive of int32 vectors as Kaldi's documentation describes it."""
    counted = np.dtype([("size", "i1"), ("value", "<i4")])
    entries = []
    for utterance, codes in table.items():
        values = np.zeros(codes.size, counted)
        values["size"], values["value"] = 4, codes.reshape(-1)
        entries.append(utterance.encode() + b" \0B\4" + np.int32(codes.size).tobytes() + values.tobytes())
    return b"".join(entries)


@pytest.mark.parametrize("library", LIBRARIES)
def test_either_library_writes_the_same_archive_and_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    module = pytest.importorskip(library)
    monkeypatch.setattr("espnet_ext.data.ark.LIBRARIES", (library,))
    write_all(tmp_path)
    assert (tmp_path / "codes.ark").read_bytes() == bytes_of(CODES)
    pointers = read_scp(tmp_path / "codes.scp")
    for utterance, codes in CODES.items():
        assert np.array_equal(module.load_mat(pointers[utterance]), codes.reshape(-1))


def test_without_a_library_for_archives_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espnet_ext.data.ark.LIBRARIES", ("no_such_library",))
    with pytest.raises(UserError, match="codes need omniio or kaldiio: pip install omniio"):
        write_all(tmp_path)


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


def hostile_pointers(directory: Path) -> list[str]:
    ark = directory / "codes.ark"
    commands = [f"{ark}:5; touch {directory}/ran |", f"| touch {directory}/ran", f"touch {directory}/ran|:5"]
    places = [
        f"{ark}",
        f"{ark}:5[0:2]",
        f"{ark}:-1",
        f"{ark}:+5",
        f"{ark}.gz:5",
        f"{directory}/x[0]:5",
        f"{directory}/x[0]y:5",
        "-:5",
    ]
    return [*commands, *places, f"{ark}:5\x00", f"{ark}\r{ark}:5"]


def test_a_pointer_is_an_archive_and_an_offset_and_runs_nothing(tmp_path: Path) -> None:
    write_all(tmp_path)
    for pointer in hostile_pointers(tmp_path):
        with pytest.raises(UserError, match="codes of a-1 must be ARCHIVE:OFFSET, got ") as caught:
            load_codes_entry(pointer, 3, "a-1")
        assert str(caught.value).isprintable()
    os.mkfifo(tmp_path / "pipe")  # nobody will ever write to it
    with pytest.raises(UserError, match="pipe must be a regular file"):
        load_codes_entry(f"{tmp_path}/pipe:0", 3)
    assert not (tmp_path / "ran").exists()


class Harm:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "content",
    [
        b"PKL",
        b"NPY\1\x80" + np.lib.format.MAGIC_PREFIX,
        b"AUDIO\1\x80",
        b"RIFF",
        b"fLaC",
        b" [ 1 2 3 ]\n",
        b"\0BCM " + bytes(40),
        b"\0B\4" + np.int32(2**31 - 1).tobytes() + bytes(40),  # 10 GB of codes in 47 bytes
        b"\0B\4" + np.int32(-1).tobytes() + bytes(40),
        b"\0B\4" + np.int32(2).tobytes() + b"\4\0\0\0\0\5\0\0\0\0",
        b"\0BFM \4" + np.int32(2**31 - 1).tobytes() + b"\4" + np.int32(2**31 - 1).tobytes() + bytes(40),
    ],
)
def test_an_entry_that_is_no_vector_or_matrix_is_refused_and_runs_nothing(tmp_path: Path, content: bytes) -> None:
    if content == b"PKL":
        content += pickle.dumps(Harm(tmp_path / "ran"))
    (tmp_path / "codes.ark").write_bytes(b"a-1 " + content)
    tracemalloc.start()
    with pytest.raises(UserError, match="codes of a-1 must be readable at .*codes.ark:4, got a damaged archive"):
        load_codes_entry(f"{tmp_path}/codes.ark:4", 1, "a-1")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not (tmp_path / "ran").exists() and most < 10**7


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_vectors_and_matrices_are_read_as_the_libraries_wrote_them(tmp_path: Path, dtype: str, library: str) -> None:
    module = pytest.importorskip(library)
    arrays = {
        "a": np.arange(5).astype(dtype),
        "b": np.arange(6).reshape(2, 3).astype(dtype if dtype[0] == "f" else "f4"),
    }
    module.save_ark(str(tmp_path / "x.ark"), arrays, scp=str(tmp_path / "x.scp"))
    for name, pointer in read_scp(tmp_path / "x.scp").items():
        found = read_entry(pointer)
        assert found.dtype == arrays[name].dtype and np.array_equal(found, arrays[name])


def test_what_training_reads_is_checked_line_by_line(tmp_path: Path) -> None:
    """ESPnet's reader would run the command, and unpickle the entry."""
    write_all(tmp_path)
    scp = tmp_path / "codes.scp"
    good = scp.read_text().splitlines()
    data = [(str(scp), "other", "kaldi_ark")]
    check_data(data, [], {})
    for pointer in hostile_pointers(tmp_path):
        scp.write_text("\n".join([good[0], f"a-2 {pointer}", good[2]]) + "\n")
        with pytest.raises(UserError, match=r"codes.scp:2: must (be (ARCHIVE:OFFSET|text)|name a file)"):
            check_data(data, [], {})
    scp.write_text("\n".join([*good, f"c-1 {tmp_path}/other.ark:4"]) + "\n")
    with pytest.raises(FileNotFoundError, match=r"archive not found: .*other.ark \(named by .*codes.scp:4\)"):
        check_data(data, [], {})
    (tmp_path / "other.ark").write_bytes(b"c-1 PKL" + pickle.dumps(Harm(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"codes.scp:4: must be numbers of .*other.ark at byte 4, got no binary Kaldi"):
        check_data(data, [], {})


def test_a_pointer_that_another_directory_would_mend_is_checked_as_espnet_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_all(Path("recipe/dump"))
    Path("recipe/dump/codes.scp").write_text(Path("recipe/dump/codes.scp").read_text().replace("recipe/", ""))
    with pytest.raises(FileNotFoundError, match=r"archive not found: dump/codes.ark \(named by .*codes.scp:1\)"):
        check_data([("recipe/dump/codes.scp", "other", "kaldi_ark")], [], {})
