"""Corpora as people keep them: every layout is read, and what is wrong with one is told by name and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_corpora import sentence, write_beside, write_table, write_tone

from espnet_ext.data.corpora import Skipped, Source, Utterance, find_layout, layouts
from espnet_ext.data.corpora.survey import Rules, gather, measure, open_store, skip_duplicates
from espnet_ext.errors import UserError

PLAIN = [f"u{number:03d}|{sentence(number)}" for number in range(30)]


def read(root: Path, layout: str = "auto", **options: object) -> tuple[dict[str, Utterance], dict[str, str]]:
    """Utterances by id, and reasons by name."""
    items = list(find_layout(layout, root)(Source(root, **options)).read())
    found = {item.name: item for item in items if isinstance(item, Utterance)}
    return found, {item.name: item.reason for item in items if isinstance(item, Skipped)}


def survey(root: Path, **rules: object):
    """The store behind all checks."""
    store, options = open_store(), Rules(**rules)
    gather(store, find_layout("auto", root)(Source(root)), options)
    measure(store, options)
    skip_duplicates(store)
    return store


def reasons(store) -> dict[str, str]:
    return dict(store.execute("SELECT * FROM trouble"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([f"u{n:03d}|{sentence(n)}" for n in range(3)], sentence(2)),
        ([f"u{n:03d}|{n}.|{sentence(n)}" for n in range(3)], sentence(2)),
        ([f"u{n:03d}\t{sentence(n)}" for n in range(3)], sentence(2)),
        (['u000,"a, b"', "u001,c", 'u002,"d, ""e"""'], 'd, "e"'),
        (
            ["text,speaker,file_name", "one,anna,wavs/u000.wav", "two,anna,u001.wav", "three,berta,wavs/u002.wav"],
            "three",
        ),
        (["id|raw|normalized", "u000|1|one", "u001|2|two", "u002|3|three"], "three"),
        (["\ufeffu000|one", "", "u001|two", "u002|three  "], "three"),
    ],
)
def test_a_table_is_read_with_its_delimiter_and_its_columns(tmp_path: Path, rows: list[str], said: str) -> None:
    found, skipped = read(write_table(tmp_path, rows, audio=3))
    assert not skipped and len(found) == 3
    last = found[max(found)]
    assert last.text == said and last.audio == str(tmp_path / "wavs" / "u002.wav")
    assert last.place == f"metadata.csv:{len(rows)}" or "" in rows


def test_what_is_said_about_a_table_names_delimiter_and_columns(tmp_path: Path) -> None:
    layout = find_layout("auto", write_table(tmp_path, ["u000|1|one"]))(Source(tmp_path))
    list(layout.read())
    assert layout.told() == "metadata.csv, columns separated by '|', no header: id = column 1, text = column 3"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["u000;hello"],
            r"metadata.csv:1: must have two columns or more separated by '\|' \(--delimiter\), got 'u000;hello'",
        ),
        (["file_name,voice", "a,b"], r"metadata.csv:1: must have a column text \(normalised, .*sentence\), got"),
        (["text,speaker", "a,b"], r"must have a column id \(id, utterance, .*\), got"),
        (["a|b|c|d"], "must be names of columns where there are more than three"),
        (['u000,"open'], "metadata.csv:1: must be a row of a table"),
        (
            ["u000|a\ru001|b"],
            r"metadata.csv:1: .*\(it has a carriage return that is no end of a line: convert its ends",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line_with_its_number(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write_table(tmp_path, rows, audio=1))


def test_rows_that_cannot_be_used_are_named_with_their_lines(tmp_path: Path) -> None:
    rows = [*PLAIN[:3], "u003|a|b", "|no id", "gone|there is no such audio", "u004|ok"]
    root = write_table(tmp_path, rows, audio=5)
    write_tone(root / "wavs" / "u004.flac", 4)
    found, skipped = read(root)
    assert sorted(found) == ["u000", "u001", "u002"]
    assert skipped == {
        "metadata.csv:4": "3 columns instead of 2: metadata.csv:4",
        "metadata.csv:5": "no id: metadata.csv:5",
        "gone": "text without audio: gone of metadata.csv:6 is not in " + f"{root.name}/ or wavs/",
        "u004": f"two audio files: {root}/wavs/u004.flac and {root}/wavs/u004.wav for metadata.csv:7",
    }


def test_a_delimiter_that_only_the_first_text_has_is_named_in_every_other_row(tmp_path: Path) -> None:
    """What was wrong with them was only that they had one column."""
    _, skipped = read(write_table(tmp_path, ["u000\tone | uno", "u001\ttwo"], audio=2))
    assert skipped["metadata.csv:2"] == "1 columns instead of 2: metadata.csv:2, which has no '|' (--delimiter)"


def test_two_texts_for_one_id_leave_none_and_the_same_again_leaves_one(tmp_path: Path) -> None:
    store = survey(write_table(tmp_path, [*PLAIN, "u001|something else", PLAIN[2]], audio=31))
    found = reasons(store)
    assert found["u001"] == "two texts for one id: metadata.csv:2 and metadata.csv:31"
    assert found["u002"] == "duplicate id: metadata.csv:3 and metadata.csv:32"
    assert found["wavs/u030.wav"] == "audio without text: wavs/u030.wav"
    ids = [name for (name,) in store.execute("SELECT id FROM usable ORDER BY id")]
    assert "u001" not in ids and ids.count("u002") == 1 and len(ids) == 29


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_and_read_when_it_is_given(tmp_path: Path, encoding: str) -> None:
    root = write_table(tmp_path, ["u000|one", "u001|Zoë"])
    (root / "metadata.csv").write_bytes("u000|one\nu001|Zoë\n".encode(encoding))
    if encoding != "latin-1":
        said = f"metadata.csv:1: must be UTF-8, begins as {encoding.upper()} does: --encoding {encoding} reads it"
        with pytest.raises(UserError, match=said):
            read(root)
    else:
        found, skipped = read(root)
        assert list(found) == ["u000"]
        assert skipped == {"metadata.csv:2": skipped["metadata.csv:2"]}
        assert skipped["metadata.csv:2"].startswith("not UTF-8: metadata.csv:2 has byte 0xeb")
    assert read(root, encoding=encoding)[0]["u001"].text == "Zoë"
    with pytest.raises(UserError, match="--encoding klingon must be that of"):
        read(root, encoding="klingon")


def test_audio_outside_of_the_corpus_is_not_read_unless_its_folder_is_named(tmp_path: Path) -> None:
    elsewhere = write_tone(tmp_path / "elsewhere" / "secret.wav", 1)
    root = write_table(
        tmp_path / "corpus", ["../elsewhere/secret|climbs", f"{elsewhere}|absolute", "link|links", "u003|ok"]
    )
    (root / "wavs" / "link.wav").symlink_to(elsewhere)
    (root / "more").symlink_to(elsewhere.parent)
    (root / "metadata.csv").open("a").write(f"more/secret|links a folder\n{root}/wavs/u000.wav|is inside\n")
    found, skipped = read(root)
    assert sorted(found) == ["u003", "wavs-u000"]
    assert len(skipped) == 3 and all(one.startswith("audio outside of the corpus: ") for one in skipped.values())
    assert len(read(root, audio_dirs=(elsewhere.parent,))[0]) == 5


def test_texts_beside_recordings_are_read_and_folders_become_part_of_the_id(tmp_path: Path) -> None:
    found, skipped = read(write_beside(tmp_path))
    assert not skipped
    assert sorted(found) == ["anna-take_0", "anna-take_1", "berta-day_1-take_2", "berta-day_1-take_3"]
    assert found["anna-take_0"].text == f"{sentence(0)} again"
    assert found["berta-day_1-take_3"].place == "berta/day 1/take 3.lab"


def test_what_is_wrong_beside_recordings_is_named(tmp_path: Path) -> None:
    root = write_beside(tmp_path)
    write_tone(root / "lonely.wav", 9)
    (root / "silent.txt").write_text("said without audio")
    for name, content in (
        ("latin", "Zoë".encode("latin-1")),
        ("wide", "Zoë".encode("utf-16")),
        ("zero", b"a\0b"),
        ("mac", b"a\rb"),
    ):
        write_tone(root / f"{name}.wav", 10)
        (root / f"{name}.txt").write_bytes(content)
    write_tone(root / "both.wav", 11)
    (root / "both.txt").write_text("one")
    (root / "both.lab").write_text("two")
    write_tone(root / "times.wav", 12)
    (root / "times.lab").write_text("0 1200000 sil\n1200000 2400000 a\n")
    secret = tmp_path.parent / f"{tmp_path.name}.secret"
    secret.write_text("a private text")
    write_tone(root / "linked.wav", 13)
    (root / "linked.txt").symlink_to(secret)
    found, skipped = read(root)
    kinds = {name: reason.split(":")[0] for name, reason in skipped.items()}
    assert kinds == {
        "lonely": "audio without text",
        "silent.txt": "text without audio",
        "latin": "not UTF-8",
        "wide": "other encoding",
        "zero": "not a text",
        "mac": "odd end of line",
        "both": "two texts for one id",
        "times": "times instead of a text",
        "linked": "text outside of the corpus",
    }
    assert len(found) == 4 and "latin.txt:1 has byte 0xeb" in skipped["latin"]


def write_kaldi(root: Path, segments: bool = True) -> Path:
    """Two recordings of two utterances each, or four recordings; lines in no order."""
    write_tone(root / "audio" / "r1.wav", 1, 2.0)
    write_tone(root / "audio" / "r2.wav", 2, 2.0)
    (root / "text").write_text("b one\na two\nc\tthree\nd four\n")
    (root / "utt2spk").write_text("a anna\nb anna\nc berta\nd berta\n")
    (root / "utt2lang").write_text("a en\nb en\nc de\nd de\n")
    if segments:
        (root / "wav.scp").write_text(f"r2 {root}/audio/r2.wav\nr1 audio/r1.wav\n")
        (root / "segments").write_text("a r1 0.0 1.0\nb r1 1.0 -1\nc r2 0.5 1.5\nd r2 1.5 9.0\n")
    else:
        (root / "wav.scp").write_text("".join(f"{one} audio/r{1 + (one > 'b')}.wav\n" for one in "dcba"))
    return root


def test_a_kaldi_directory_is_read_with_and_without_segments(tmp_path: Path) -> None:
    found, skipped = read(write_kaldi(tmp_path / "with"))
    assert not skipped and sorted(found) == list("abcd")
    assert (found["b"].span.begin, found["b"].span.end, found["b"].speaker) == (1.0, None, "anna")
    assert found["a"].audio == str(tmp_path / "with" / "audio" / "r1.wav") and found["c"].language == "de"
    found, _ = read(write_kaldi(tmp_path / "without", segments=False))
    assert sorted(found) == list("abcd") and found["c"].text == "three" and found["c"].span.end is None


def test_what_is_wrong_in_a_kaldi_directory_is_named(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path)
    (root / "segments").open("a").write("e r1 1 0\nf r9 0 1\ng r1 0\nh r1 0 1\ni r3 0 1\nj r4 0 1\n")
    (root / "text").open("a").write("a other\nz nowhere\ni command\nj away\nk no value\nk\n")
    (root / "wav.scp").open("a").write(f"r3 touch {root}/ran |\nr4 {write_tone(tmp_path.parent / 'away.wav', 3)}\n")
    store = survey(root)
    found = reasons(store)
    assert found["a"] in ("two values for one id: text:2 and 5", "two values for one id: see text")
    assert found["d"] == "bad segment: segments:4 lies behind the end of its recording"
    assert found["e"].startswith("bad segment: segments:5 must end behind its begin")
    assert found["f"] == "bad segment: r9 of segments:6 is not in wav.scp"
    assert found["g"].startswith("bad segment: segments:7 must have a recording")
    assert found["h"] == "audio without text: h of segments:8"
    assert found["i"] == "a command instead of a file: segments:9" and not (root / "ran").exists()
    assert found["j"].startswith("audio outside of the corpus: ")
    assert found["z"] == "text without audio: text:6 is not in segments"


def test_a_folder_that_is_no_corpus_or_two_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a folder"):
        find_layout("auto", tmp_path / "nothing")
    with pytest.raises(UserError, match="must have metadata.csv, wav.scp, a .txt beside"):
        find_layout("auto", tmp_path)
    (tmp_path / "wav.scp").write_text("")
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(UserError, match=r"--layout must say which one of \['kaldi', 'table'\]"):
        find_layout("auto", tmp_path)
    assert find_layout("table", tmp_path) is layouts["table"]


def test_another_package_may_add_a_layout(tmp_path: Path) -> None:
    from espnet_ext.data.corpora import Layout, register_layout

    @register_layout("toy")
    class Toy(Layout):
        @classmethod
        def fits(cls, root: Path) -> bool:
            return (root / "toy.txt").is_file()

        def read(self):
            for number, line in enumerate((self.source.root / "toy.txt").read_text().splitlines(), start=1):
                yield Utterance(f"t{number}", str(self.source.root / f"{number}.wav"), line, f"toy.txt:{number}")

    try:
        (tmp_path / "toy.txt").write_text("one\ntwo\nthree\n")
        for number in range(1, 4):
            write_tone(tmp_path / f"{number}.wav", number)
        store = survey(tmp_path)
        assert store.execute("SELECT count(*) FROM usable").fetchone() == (3,)
    finally:
        layouts._classes.pop("toy")
