"""report.html: what it holds, without a browser."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from markupsafe import escape
from test_score_stage import buzz, test_set, three_strategies  # noqa: F401 (a fixture)

from espnet_ext.bin import report, results
from espnet_ext.data.ctm import WORDS_NAME, read_ctm, write_ctm
from espnet_ext.errors import UserError
from espnet_ext.scoring.page.content import table
from espnet_ext.scoring.page.heard import marked
from espnet_ext.scoring.page.labels import Box, place
from espnet_ext.scoring.page.media import audio_uri, spectrogram_uri
from espnet_ext.scoring.page.pareto_plot import plot
from espnet_ext.scoring.page.render import render
from espnet_ext.scoring.scores import (
    Comparison,
    Difference,
    ErrorRate,
    FrameDistance,
    Mean,
    Scores,
    SystemScores,
    read_scores,
    write_scores,
)
from espnet_ext.scoring.tables.advice import TARGETS, advise

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


def test_distances_of_the_page_are_the_bias_corrected_ones_that_its_intervals_are_of(test_set: Path) -> None:  # noqa: F811
    """The difference was the one with the bias, beside the interval of the one without."""
    distance = Difference(0.75, 0.25, (0.125, 0.375))
    result = replace(three_strategies(), environment=ENVIRONMENT, comparisons=[Comparison("a", "b", frechet=distance)])
    html = render([result], "title", "command", 0)
    assert '<td class="best">0.2500</td><td>0.1250 … 0.3750</td>' in html and "0.7500" not in html
    systems = {
        f"s1_{name}": SystemScores(frechet=FrameDistance(9.0, 0.25, (0.125, 0.375)), rtf=rtf, timing={"steps": 1})
        for name, rtf in (("one", 0.1), ("other", 0.2))
    }
    drawn, shown = plot(systems, "frechet"), table(Scores(systems=systems), [])
    assert drawn is not None and drawn.svg.count('id="LineCollection_') == 2  # a bar for each
    assert max(float(number) for number in re.findall(r">(\d\.\d+)</text>", drawn.svg)) < 1
    place_of = [column["label"] for column in shown["columns"]].index("codec FD")
    cells = {(row["cells"][place_of]["text"], row["cells"][place_of]["interval"]) for row in shown["rows"]}
    assert cells == {("0.2500", "0.1250\N{NO-BREAK SPACE}… 0.3750")}


def judged(**changes: object) -> SystemScores:
    values = {"wer": ErrorRate(rate=0.2, interval=(0.15, 0.25)), "rtf": 0.1, "timing": {"steps": 1}}
    return SystemScores(**{**values, "measures": {"utmos": Mean(3.0, (2.0, 4.0))}, "duration_ratio": 1.0, **changes})


def test_best_are_all_that_intervals_cannot_tell_from_the_best_and_nobody_if_those_are_all() -> None:
    """One of them was bold, by digits that nobody sees."""
    systems = {
        "s1_a": judged(),
        "s1_b": judged(wer=ErrorRate(rate=0.21, interval=(0.16, 0.26)), duration_ratio=1.01),
        "s1_c": judged(wer=ErrorRate(rate=0.5, interval=(0.4, 0.6)), rtf=0.102, measures={"utmos": Mean(2.9, (2, 4))}),
        "s1_d": judged(wer=ErrorRate(rate=0.4, interval=(0.35, 0.45)), rtf=0.2),
        "original": SystemScores(wer=ErrorRate(rate=0.0, interval=(0.0, 0.0))),
    }
    shown = table(Scores(systems=systems), [])
    labels = [column["label"] for column in shown["columns"]]
    best = {
        label: [row["name"] for row in shown["rows"] if row["cells"][labels.index(label)]["best"]] for label in labels
    }
    assert best["WER %"] == ["s1_a", "s1_b"] and best["RTF"] == ["s1_a", "s1_b", "s1_c"]
    assert best["UTMOS"] == [] and best["duration ratio"] == []


def test_wrong_words_under_the_players_are_marked(test_set: Path) -> None:  # noqa: F811
    assert (
        marked("two red dogs ran", "two bad dogs <now> ran")
        == 'two <mark title="instead of: red">bad</mark> dogs <ins>&lt;now&gt;</ins> ran'
    )
    assert marked("two red dogs", "two dogs") == "two <del>red</del> dogs"
    assert marked("", "two") == "<ins>two</ins>" and marked("two", "") == "<del>two</del>"
    result = replace(three_strategies(), environment=ENVIRONMENT)
    utterances = result.reference.transcripts
    systems = {
        name: replace(one, wer=ErrorRate(rate=0.0), hypotheses=dict.fromkeys(utterances, "two red dogs"))
        for name, one in result.systems.items()
    }
    html = render([replace(result, systems=systems)], "title", "command", 1)
    assert "heard: two red dogs <del>zyxxyz</del>" in html


def test_words_with_their_times_play_from_there(test_set: Path) -> None:  # noqa: F811
    result = replace(three_strategies(), environment=ENVIRONMENT)
    spoken = next(name for name, one in result.systems.items() if one.generates)
    directory = Path(result.systems[spoken].directory)
    utterances = list(result.reference.transcripts)
    write_ctm(directory / WORDS_NAME, {utterance: [("two", 0.12, 0.4), ("<b>", 0.4, 0.9)] for utterance in utterances})
    assert read_ctm(directory / WORDS_NAME)[utterances[0]] == [("two", 0.12, 0.4), ("<b>", 0.4, 0.9)]
    html = render([result], "title", "command", 1)
    assert html.count('data-start="0.12" title="0.12 to 0.40 s">two</button>') == 1
    assert "&lt;b&gt;</button>" in html
    (directory / WORDS_NAME).write_text("utt 1 0.1 word\n")
    with pytest.raises(UserError, match=r"words\.ctm:1: must be id, channel, begin, duration and word"):
        render([result], "title", "command", 1)


def test_page_gives_the_advice_of_recommend_and_none_where_nothing_was_generated(test_set: Path) -> None:  # noqa: F811
    result = replace(three_strategies(), environment=ENVIRONMENT)
    html = render([result], "title", "command", 0)
    assert re.findall(r"<h3>For (\w+): ", html) == ["latency", "throughput", "quality"]
    for target in TARGETS:
        assert all(f"<li>{escape(reason)}</li>" in html for reason in advise([result], target).reasons)
    recordings = replace(result, systems={"original": result.systems["original"]})
    assert "What to use" not in render([recordings], "title", "command", 0)


def test_every_training_is_shown_once_however_many_test_sets_name_it(test_set: Path) -> None:  # noqa: F811
    Path("learning.png").write_bytes(b"\x89PNG")
    result = replace(three_strategies(), environment=ENVIRONMENT, figures={"learning curves of exp": "learning.png"})
    lost = {"learning curves of exp": "lost.png"}
    results = [result, replace(result, title="other"), replace(result, title="third", figures=lost)]
    html = render(results, "title", "command", 0)
    assert html.count("<figcaption>learning curves of exp</figcaption>") == 1 and "the picture is gone" not in html
    assert html.count('src="data:image/png;base64,iVBORw=="') == 1
    Path("same_name.png").write_bytes(b"another")
    results.append(replace(result, title="elsewhere", figures={"learning curves of exp": "same_name.png"}))
    assert render(results, "title", "command", 0).count("<figcaption>learning curves of exp</figcaption>") == 2


def test_names_of_many_points_do_not_cover_each_other_and_those_without_room_are_listed() -> None:
    points = {f"{row}_{column}": (30.0 * column, 12.0 * row) for row in range(8) for column in range(8)}
    placed = place(dict.fromkeys(points, (60.0, 8.0)), points, [], Box(-20, -20, 320, 140))
    boxes = list(placed.values())
    assert 10 < len(boxes) < len(points)
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    assert not any(box.left < x < box.right and box.bottom < y < box.top for box in boxes for x, y in points.values())
    systems = {
        f"s1_local_maskgit_n_rounds-{number}": judged(rtf=0.1 + 0.0001 * (7 * number % 40)) for number in range(40)
    }
    drawn = plot(systems, "wer")
    assert drawn is not None and drawn.unnamed and not set(drawn.front) & set(drawn.unnamed)
    assert {name for name in systems if f">{name}</text>" in drawn.svg} == systems.keys() - set(drawn.unnamed)
    assert all(f"<title>{name}</title>" in drawn.svg for name in systems)


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
