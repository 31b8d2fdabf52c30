"""report.html: what it holds, without a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_score_stage import test_set, three_strategies  # noqa: F401 (a fixture)

from espnet_ext.bin import report
from espnet_ext.scoring.page.media import audio_uri, spectrogram_uri
from espnet_ext.scoring.page.pareto_plot import plot
from espnet_ext.scoring.scores import ErrorRate, SystemScores, write_scores

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
