"""Damaged bytes for every reader of ours: a value or an error of one line, no other exception, no hang."""

from __future__ import annotations

import random
import shutil
import traceback
import zlib
from pathlib import Path

import pytest

from faults.figures import count
from faults.readers import Reader, all_readers, bounded_memory, config_reader, mutate

NAMES = [
    *("tables of texts", "tables of audio", "tables of counts", "segments", "skipped", "words with times (ctm)"),
    *("token lists", "yaml", "decode yamls", "pointers", "archives of codes", "codes.scp", "wav", "flac"),
    *("codec_info.yaml", "weights of a codec", "semantic_info.yaml", "weights of a model", "checkpoints"),
    *("scores.json", "records", "records of the shell", "shards", "locks"),
]
FEW, MANY = 20, 600


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    found = all_readers(tmp_path_factory.mktemp("readers") / "files")
    assert list(found) == NAMES, "a reader without a test"
    return found


def fuzz(name: str, reader: Reader, number: int) -> None:
    """Give a reader damaged bytes, the same ones every time."""
    draw, whole, uncaught = random.Random(zlib.crc32(name.encode())), reader.path.read_bytes(), []
    assert reader.answer(whole) is None or name in ("locks",)
    number = max(10, number // reader.cost)
    refused = 0
    with bounded_memory():
        for _ in range(number):
            content = mutate(whole, draw)
            try:
                refused += reader.answer(content) is not None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                uncaught.append((content[:2000], "".join(traceback.format_exception(error)[-3:])))
    reader.path.write_bytes(whole)
    count("readers", name, number, len(uncaught))
    assert not uncaught, f"{len(uncaught)} of {number}, the first: {uncaught[0][0]!r}\n{uncaught[0][1]}"


@pytest.mark.parametrize("name", NAMES)
def test_a_few_damaged_files_are_read_or_refused(readers: dict[str, Reader], name: str) -> None:
    fuzz(name, readers[name], FEW)


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files_are_read_or_refused(readers: dict[str, Reader], name: str) -> None:
    fuzz(name, readers[name], MANY)


@pytest.mark.faults
@pytest.mark.espnet
def test_many_damaged_configurations_are_read_or_refused(experiment: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment, tmp_path / "exp")
    fuzz("config.yaml of an experiment", config_reader(tmp_path / "exp"), MANY)


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_hypothesis_finds_are_read_or_refused(readers: dict[str, Reader], name: str) -> None:
    """It shrinks what it finds to the shortest such input."""
    hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
    from hypothesis import strategies as st

    reader = readers[name]
    whole, tried = reader.path.read_bytes(), [0]
    place = st.integers(0, len(whole))

    @hypothesis.settings(
        max_examples=max(5, 200 // reader.cost), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(
        place, st.integers(0, 64), st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode))
    )
    def read(start: int, length: int, piece: bytes) -> None:
        tried[0] += 1
        reader.answer(whole[:start] + piece + whole[start + length :])

    with bounded_memory():
        read()
    reader.path.write_bytes(whole)
    count("readers", name, tried[0], 0)
