"""The recipe egs2/kathleen: it is egs2/own with an archive, which is unpacked safely."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import soundfile
from fabricated_corpora import RATE_HZ, sentence, tone

ROOT = Path(__file__).resolve().parent.parent


def write_archive(path: Path, top: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in range(12):
            sound = io.BytesIO()
            soundfile.write(sound, tone(number), RATE_HZ, format="FLAC")
            for ending, content in ((".flac", sound.getvalue()), (".txt", sentence(number % 10).encode())):
                member = tarfile.TarInfo(f"{top}/arctic_{number}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def run(recipe: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(recipe / "run.sh"), "--python", sys.executable, "--stop_stage", "data", "--estimate", "no"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, options)], cwd=recipe, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.espnet
@pytest.mark.parametrize("top", ["data", "dataset-voice-kathleen-HEAD/data"])
def test_an_archive_becomes_sets_and_is_unpacked_once(tmp_path: Path, top: str) -> None:
    for name in ("local", "conf", "espnet_ext"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("own", "kathleen"):
        source = ROOT / "egs2" / name / "codec_lm1"
        for file in ("run.sh", *(f"local/{one.name}" for one in (source / "local").glob("*.*"))):
            target = tmp_path / "egs2" / name / "codec_lm1" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / file).read_bytes())
    recipe = tmp_path / "egs2" / "kathleen" / "codec_lm1"
    done = run(recipe, "--corpus", write_archive(tmp_path / "kathleen.tar", top))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 utterances, 6.0 s, 10 different sentences." in (recipe / "data" / "report.md").read_text()
    assert len(list((recipe / "downloads" / "kathleen").glob("arctic_*"))) == 24
    assert "finished before" in run(recipe, "--corpus", tmp_path / "kathleen.tar").stdout
    missing = run(recipe, "--corpus", tmp_path / "none.tar")
    assert (
        missing.returncode != 0
        and "must be a folder of recordings or a tar archive, found nothing there" in missing.stdout
    )
