"""Files that would run code if anything in them were run, in the place of every file that we read."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.figures import count
from faults.readers import Reader, all_readers
from faults.test_readers import NAMES


class Harm:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def hostile(mark: Path) -> dict[str, bytes]:
    """Kind of harm → bytes."""
    harm, npz, pth = Harm(mark), io.BytesIO(), io.BytesIO()
    np.savez(npz, codes=np.array([harm], dtype=object))
    torch.save({"model": harm}, pth)
    command = f"touch {mark}"
    return {
        "a pickle": pickle.dumps(harm),
        "a pickle in an archive": b"utt-0 PKL" + pickle.dumps(harm),
        "a pickle in a numpy file": npz.getvalue(),
        "a pickle in weights": pth.getvalue(),
        "a command in a table": f"utt-0 {command} |\nutt-1 | {command}\nutt-2 x.ark:5; {command} |\n".encode(),
        "a command as a pointer": f"x.ark:5; {command} |".encode(),
        "an object in yaml": f"!!python/object/apply:os.mkdir [{mark}]\n".encode(),
        "an object in a value of yaml": f"corelm: !!python/object/apply:os.system ['{command}']\n".encode(),
        "a command in a shell's words": f"$({command}) `{command}` ; {command}\n".encode(),
        "a module in JSON": f'{{"py/reduce": [{{"py/type": "os.mkdir"}}, ["{mark}"]]}}'.encode(),
    }


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return all_readers(tmp_path_factory.mktemp("hostile") / "files")


def test_these_files_do_harm_to_who_trusts_them(tmp_path: Path) -> None:
    kinds = hostile(tmp_path / "ran")
    pickle.loads(kinds["a pickle"])
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").rmdir()
    torch.load(io.BytesIO(kinds["a pickle in weights"]), weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", NAMES)
def test_no_hostile_file_runs_code(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    whole = readers[name].path.read_bytes()
    ran = []
    for kind, content in hostile(tmp_path / "ran").items():
        readers[name].answer(content)
        if os.path.lexists(tmp_path / "ran"):
            ran.append(kind)
            break
    readers[name].path.write_bytes(whole)
    count("hostile", name, len(hostile(tmp_path / "ran")), len(ran))
    assert not ran
