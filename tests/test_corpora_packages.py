"""Corpora of the packages datasets and lhotse, made with them; where one is not installed, its tests are skipped."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
from fabricated_corpora import RATE_HZ, sentence, write_tone
from test_corpora import read, reasons, survey

from espnet_ext.data.corpora import Source, find_layout
from espnet_ext.errors import UserError


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="the package datasets is not installed")


@pytest.fixture
def lhotse() -> ModuleType:
    return pytest.importorskip("lhotse", reason="the package lhotse is not installed")


@pytest.mark.parametrize("layout", ["hugging_face", "lhotse"])
def test_a_layout_whose_package_is_missing_is_one_line(tmp_path: Path, layout: str) -> None:
    package = {"hugging_face": "datasets", "lhotse": "lhotse"}[layout]
    try:
        __import__(package)
    except ModuleNotFoundError:
        (tmp_path / ("dataset_info.json" if package == "datasets" else "cuts.jsonl")).write_text("{}")
        with pytest.raises(
            UserError, match=f"--layout {layout} needs a package that is not there .*espnet_ext.{package}"
        ):
            read(tmp_path)
    else:
        pytest.skip(f"{package} is installed")


def speech_dataset(datasets: ModuleType, folder: Path, first: int = 0):
    """Three recordings of two speakers, who are a class label."""
    paths = [str(write_tone(folder / f"{number}.wav", number)) for number in range(first, first + 3)]
    columns = {"audio": paths, "text": [sentence(n) for n in range(first, first + 3)], "speaker_id": [0, 0, 1]}
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    return made.cast_column("speaker_id", datasets.ClassLabel(names=["anna", "berta"]))


@pytest.mark.parametrize("kind", ["disk", "splits", "parquet", "moved"])
def test_a_hugging_face_datasets_folder_is_read(datasets: ModuleType, tmp_path: Path, kind: str) -> None:
    """A speaker of number 0 had no name; audio in the tables is unpacked, and not decoded."""
    made, root = speech_dataset(datasets, tmp_path / "made"), tmp_path / "corpus"
    root.mkdir()
    if kind == "parquet":
        (root / "data").mkdir()
        files = sorted((tmp_path / "made").iterdir())
        packed = [{"bytes": path.read_bytes(), "path": path.name} for path in files]  # as on a hub
        made = made.remove_columns("audio").add_column("audio", packed).cast_column("audio", datasets.Audio())
        made.to_parquet(str(root / "data" / "train-00000-of-00001.parquet"))
    elif kind == "splits":
        other = speech_dataset(datasets, tmp_path / "made", 3)
        datasets.DatasetDict({"train": made, "test": other}).save_to_disk(str(root))
    else:
        made.save_to_disk(str(root))
    if kind != "disk":  # the audio is in the tables
        for path in (tmp_path / "made").iterdir():
            path.unlink()
    found, skipped = read(root, unpacked=tmp_path / "unpacked", audio_dirs=(tmp_path / "made",))
    count = 6 if kind == "splits" else 3
    assert not skipped and sorted(one.text for one in found.values()) == [sentence(n) for n in range(count)]
    assert {name: one.speaker for name, one in found.items()}["0"] == "anna"
    assert {one.speaker for one in found.values()} == {"anna", "berta"}
    layout = find_layout("auto", root)(Source(root, unpacked=tmp_path / "unpacked"))
    assert list(layout.read()) and layout.told() == "columns audio = 'audio', text = 'text', speaker = 'speaker_id'"
    assert all(soundfile.info(one.audio).samplerate == RATE_HZ for one in found.values())


def test_what_is_wrong_with_a_datasets_folder_is_one_line(datasets: ModuleType, tmp_path: Path) -> None:
    speech_dataset(datasets, tmp_path / "made").rename_column("text", "words").save_to_disk(str(tmp_path / "columns"))
    with pytest.raises(UserError, match="columns: must have a column audio and one of .*'text'.*, got .*'words'"):
        read(tmp_path / "columns")
    root = tmp_path / "damaged"
    speech_dataset(datasets, tmp_path / "made").save_to_disk(str(root))
    (table,) = root.glob("*.arrow")
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged: must be readable by the package datasets ") as caught:
        read(root)
    assert "\n" not in str(caught.value)


def write_manifests(lhotse: ModuleType, root: Path) -> tuple:
    """Two recordings with two supervisions each, in no order, of four in all."""
    recordings = [lhotse.Recording.from_file(write_tone(root / f"r{n}.wav", n, 2.0)) for n in (1, 2)]
    parts = [
        lhotse.SupervisionSegment(f"s{n}", f"r{1 + n % 2}", float(n // 2), 1.0, text=sentence(n), speaker="anna")
        for n in (3, 1, 0, 2)
    ]
    return lhotse.RecordingSet.from_recordings(recordings), lhotse.SupervisionSet.from_segments(parts)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_lhotse_recordings_and_supervisions_are_read_in_any_order(
    lhotse: ModuleType, tmp_path: Path, packed: str
) -> None:
    """Lhotse itself joins them lazily only into a file, and only where both are sorted: it was an error."""
    recordings, parts = write_manifests(lhotse, tmp_path)
    lonely = lhotse.Recording.from_file(write_tone(tmp_path / "lonely.wav", 5))
    lost = lhotse.SupervisionSegment("lost", "gone", 0.0, 1.0, text="nowhere")
    lhotse.RecordingSet.from_recordings([*recordings, lonely]).to_file(tmp_path / f"my_recordings_all.jsonl{packed}")
    lhotse.SupervisionSet.from_segments([*parts, lost]).to_file(tmp_path / f"my_supervisions_all.jsonl{packed}")
    found, skipped = read(tmp_path)
    assert {name: one.text for name, one in found.items()} == {f"s{n}": sentence(n) for n in range(4)}
    assert (found["s2"].span.begin, found["s2"].span.end, found["s2"].speaker) == (1.0, 2.0, "anna")
    assert found["s2"].audio == str(tmp_path / "r1.wav") and found["s3"].audio == str(tmp_path / "r2.wav")
    manifests = [f"my_{kind}_all.jsonl{packed}" for kind in ("recordings", "supervisions")]
    assert found["s3"].place == f"{manifests[1]}:1"
    assert skipped == {
        "lost": f"text without audio: gone of {manifests[1]}:5 is not in {manifests[0]}",
        "lonely": f"audio without text: {manifests[0]}:3",
    }


def test_lhotse_cuts_are_read_with_their_parts_where_these_lie_in_the_recording(
    lhotse: ModuleType, tmp_path: Path
) -> None:
    recordings, parts = write_manifests(lhotse, tmp_path)
    whole = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=parts)
    trimmed = whole.trim_to_supervisions(keep_overlapping=False)
    late = whole[0].truncate(offset=0.5, duration=1.0)  # begins within its first supervision, ends within the second
    trimmed.to_file(tmp_path / "a_cuts.jsonl.gz")
    lhotse.CutSet.from_cuts([late]).to_file(tmp_path / "b_cuts.jsonl")
    found, skipped = read(tmp_path)
    assert not skipped and {name: one.text for name, one in found.items()} == {f"s{n}": sentence(n) for n in range(4)}
    assert {name: (one.span.begin, one.span.end) for name, one in found.items()} == {
        f"s{n}": (float(n // 2), n // 2 + 1.0) for n in range(4)
    }
    assert len([one for one in found.values() if one.place.startswith("b_cuts.jsonl:1")]) == 2


def test_lhotse_audio_that_is_not_what_its_file_holds_is_skipped_with_the_reason(
    lhotse: ModuleType, tmp_path: Path
) -> None:
    recordings, parts = write_manifests(lhotse, tmp_path)
    whole = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=parts)
    soundfile.write(tmp_path / "stereo.wav", [[0.1, -0.1]] * RATE_HZ, RATE_HZ)
    stereo = lhotse.Recording.from_file(tmp_path / "stereo.wav")
    one = lhotse.SupervisionSegment("left", stereo.id, 0.0, 1.0, channel=0, text="left")
    mono = lhotse.MonoCut("mono", 0.0, 1.0, 0, supervisions=[one], recording=stereo)
    silent = whole[1].drop_supervisions()
    cuts = [whole[0].perturb_speed(1.1), whole[0].mix(whole[1]), mono, silent]
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    found, skipped = read(tmp_path)
    assert not found
    assert sorted(reason.partition(": ")[0] for reason in skipped.values()) == [
        "audio that is no file",
        "audio that is still to be changed",
        "audio that is still to be changed",
        "audio without text",
        "one channel of several",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r"cuts.jsonl.gz:2: must be a line of a lhotse manifest \("), ('{"a": 1}', "cuts.jsonl.gz:2: .*no type")],
)
def test_a_lhotse_manifest_that_is_damaged_is_named_with_its_line(
    lhotse: ModuleType, tmp_path: Path, line: str, message: str
) -> None:
    recordings, parts = write_manifests(lhotse, tmp_path)
    path = tmp_path / "cuts.jsonl.gz"
    lhotse.CutSet.from_manifests(recordings=recordings, supervisions=parts).to_file(path)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([lines[0], line]).encode()))
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    path.write_bytes(gzip.compress(lines[0].encode() * 50)[:-20])
    with pytest.raises(UserError, match="must be a line of a lhotse manifest"):
        read(tmp_path)


def test_lhotse_segments_reach_the_sets(lhotse: ModuleType, tmp_path: Path) -> None:
    recordings, parts = write_manifests(lhotse, tmp_path)
    recordings.to_file(tmp_path / "recordings.jsonl")
    parts.to_file(tmp_path / "supervisions.jsonl")
    store = survey(tmp_path)
    assert not reasons(store)
    assert store.execute("SELECT id, first, last FROM usable ORDER BY id").fetchall() == [
        (f"s{n}", float(n // 2), n // 2 + 1.0) for n in range(4)
    ]
