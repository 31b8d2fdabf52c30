"""report.html: what it holds, without a browser."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from test_score_stage import buzz, test_set, three_strategies  # noqa: F401 (a fixture)

from espnet_ext.bin import report, results
from espnet_ext.errors import UserError
from espnet_ext.scoring.page.media import audio_uri, spectrogram_uri
from espnet_ext.scoring.page.pareto_plot import plot
from espnet_ext.scoring.scores import ErrorRate, SystemScores, read_scores, write_scores

EVIL = 'two <script>alert("red")</script> & dogs'
ENVIRONMENT = {"date": "2026-11-27T12:00:00+00:00", "python version": "3.11", "Git hash": "abc"}


def evil_scores() -> Path:
    """scores.json of three strategies, with a text that would like to be a program."""
    Path("learning.png").write_bytes(b"\x89PNG")
    figures = {"learning curves of exp": "learning.png", "learning curves of lost": "lost.png"}
    result = replace(three_strategies(), title="set & match", environment=ENVIRONMENT, figures=figures)
    result.reference.transcripts.update(dict.fromkeys(result.reference.transcripts, EVIL))
    result.unavailable["utmos"] = "utmos_pytorch is not installed: pip install utmos-pytorch"
    path = Path("scores.json")
    write_scores(result, path)
    return path


@pytest.fixture
def html(test_set: Path) -> str:  # noqa: F811
    report.main([str(evil_scores()), "--out", "report.html", "--num_sentences", "2"])
    return Path("report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_but_itself(html: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses and all(one.startswith(("data:", "#")) for one in addresses)
    assert "url(" not in html.replace("url(#", "") and "@import" not in html


def test_texts_of_users_are_text_and_nothing_else(html: str) -> None:
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert '<h2 id="title1">set &amp; match</h2>' in html


def test_page_names_what_is_missing_and_how_to_get_it(html: str) -> None:
    assert "utmos_pytorch is not installed: pip install utmos-pytorch" in html
    assert "the picture is gone" in html
    assert "no audio" in html and "unreadable wav" in html
    assert re.search("<summary>s2_parallel, no audio: 2</summary>", html)


def test_page_has_a_player_and_a_spectrogram_for_every_clip_and_the_facts(html: str) -> None:
    assert html.count("<audio ") == html.count("<img src=") >= 7
    assert html.count('preload="none"') == html.count("<audio ")
    assert "heard:" in html and "Git hash" in html and "python -m espnet_ext.bin.report scores.json" in html
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_only_differences_whose_interval_lacks_zero_are_bold(html: str) -> None:
    rows = re.findall(r"<td( class=\"best\")?>[-\d.]+</td><td>([-\d.]+) … ([-\d.]+)</td></tr>", html)
    assert len(rows) == 6
    assert [bool(bold) for bold, *_ in rows] == [float(low) > 0 or float(high) < 0 for _, low, high in rows]
    assert not all(bold for bold, *_ in rows)


def test_page_of_fifteen_systems_and_three_sentences_stays_small(test_set: Path) -> None:  # noqa: F811
    """Three seconds of sound and a spectrogram make at most 60 kB: 45 of them leave room in 15 MB."""
    wav = Path("exp/decode_x/set/wav/b-2.wav")
    assert len(audio_uri(wav)) < 30_000 and len(spectrogram_uri(wav)) < 60_000


def test_plot_says_its_front_in_words_and_takes_the_colour_of_the_page() -> None:
    systems = {
        f"s1_{name}": SystemScores(
            wer=ErrorRate(rate=wer, interval=(wer, wer)), rtf=rtf, timing={"steps": 1, "decoding": name}
        )
        for name, wer, rtf in (("parallel", 0.3, 0.1), ("local_ar", 0.2, 0.2), ("local_<maskgit>", 0.4, 0.3))
    }
    drawn = plot(systems, "wer")
    assert drawn is not None and drawn.front == ["s1_parallel", "s1_local_ar"]
    assert 'role="img" aria-label="WER % over real-time factor; on the Pareto front' in drawn.svg
    assert "currentColor" in drawn.svg and "#010203" not in drawn.svg
    assert "<maskgit>" not in drawn.svg
    assert plot({"s1_parallel": systems["s1_parallel"]}, "wer") is None
    assert plot(systems, "utmos") is None


def test_a_directory_that_is_gone_is_named(test_set: Path) -> None:  # noqa: F811
    path = evil_scores()
    content = json.loads(path.read_text())
    content["systems"]["s2_parallel"]["directory"] = "moved/away"
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="scores must be of directories that are there, got moved/away without wav.scp"
    ):
        report.main([str(path)])
    assert not Path("report.html").exists()
    with pytest.raises(ValueError, match="num_sentences must be at least 0, got -1"):
        report.main([str(path), "--num_sentences", "-1"])


@pytest.mark.parametrize("place", ["wav.scp", "link"])
def test_a_page_holds_no_sound_and_no_picture_from_elsewhere(
    test_set: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    """Scores may come from somebody else, and the page may go back to them."""
    path = evil_scores()
    private = tmp_path_factory.mktemp("private")
    (private / "key").write_text("PRIVATE KEY")
    (private / "photo.png").write_bytes(b"\x89PNG a photo of mine")
    wav = Path("exp/decode_x/set/wav/b-2.wav")
    secret = private / "call.wav"
    soundfile.write(secret, buzz(1.3, 333.0), 16000)
    sound = audio_uri(secret)
    if place == "wav.scp":
        table = wav.parent.parent / "wav.scp"
        table.write_text(re.sub("b-2 .*", f"b-2 {secret}", table.read_text()))
    else:
        wav.unlink()
        wav.symlink_to(secret)
    content = json.loads(path.read_text())
    figures = {f"learning curves {name}": str(private / name) for name in ("key", "photo.png")}
    Path("key").write_text("PRIVATE KEY too")
    content["figures"] = {**figures, "learning curves here": "key"}
    path.write_text(json.dumps(content))
    report.main([str(path), "--num_sentences", "9"])
    page = Path("report.html").read_text()
    for hidden in (b"PRIVATE KEY", b"PRIVATE KEY too", b"a photo of mine"):
        for shift in range(3):  # base64 of the same bytes at another place
            code = base64.b64encode(b"\x89PNG"[:shift] + hidden)[4:-4].decode()
            assert code not in page
    assert sound not in page and page.count("<audio ") > 0
    assert "exp/decode_x/set/wav.scp: 1 files are not shown, as they are neither below the directories" in caplog.text
    assert "photo.png' is not shown: it is not below the directories of the scores" in caplog.text
    assert "'key' is not shown: it is no PNG picture of at most 16 MiB" in caplog.text


def test_names_are_no_formulas_no_elements_and_no_orders_to_a_terminal(test_set: Path) -> None:  # noqa: F811
    evil = "s1_$\\frac$ <script>alert(1)</script> ![x](http://evil) | \x1b]0;owned\x07\nsecond"
    path = evil_scores()
    content = json.loads(path.read_text())
    systems = content["systems"]
    content["systems"] = {evil if name == "s2_parallel" else name: scores for name, scores in systems.items()}
    content["title"], content["environment"]["Git hash"] = evil, evil
    content["figures"] = {evil: "learning.png"}
    content["reference"]["skipped"] = {evil: evil}
    path.write_text(json.dumps(content))
    report.main([str(path)])
    results.main([str(path), "--out", "RESULTS.md"])
    for page in (Path("report.html").read_text(), Path("RESULTS.md").read_text()):
        assert "<script>alert" not in page and "\x1b" not in page and "\x07" not in page
    markdown = Path("RESULTS.md").read_text()
    assert "](http://evil)" not in markdown and "\nsecond" not in markdown


@pytest.mark.parametrize(
    "damage",
    [{"title": 3}, {"systems": {"a": {"rtf": "fast"}}}, {"systems": []}, {"figures": {"a": {}}}, {"seconds": [1]}],
)
def test_scores_of_other_kinds_are_refused_when_they_are_read(test_set: Path, damage: dict[str, object]) -> None:  # noqa: F811
    path = evil_scores()
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(UserError, match=r"scores must be a file written by espnet_ext.bin.evaluate, got scores.json"):
        report.main([str(path)])


@pytest.mark.parametrize("content", ["[" * 100_000, '{"seconds": NaN}', '{"seconds": Infinity}'])
def test_scores_that_are_no_json_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UserError, match="scores must be JSON: .*scores.json: "):
        read_scores(tmp_path / "scores.json")
