"""The one page about a corpus: what there is, what is skipped and why, and what to change before a training."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from espnet_ext.data.corpora.sizes import TextChoice
from espnet_ext.data.corpora.sound import AUDIBLE_DB, Sound
from espnet_ext.data.corpora.survey import SETS, skipped_kinds, skipped_of_kind
from espnet_ext.data.datadir import shown
from espnet_ext.tokenizers.text.cleaners import clean_lower, compose

FEW = 10  # times that a character must be there to be learned
MOST_LISTED = 8  # speakers, kinds and the like; the rest is in a file
MOST_CHARACTERS = 60
NAMES = 3  # of each kind of trouble
BARS = 8
LONG_SILENCE_SEC = 0.5
LITTLE_SEC = 60.0  # of a speaker: too little for a voice


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best.

    >>> duration(4728), duration(300), duration(9)
    ('1.31 h', '5.0 min', '9.0 s')
    """
    for limit, unit in ((3600, "h"), (60, "min")):
        if seconds >= limit:
            return f"{seconds / limit:.{2 if unit == 'h' else 1}f} {unit}"
    return f"{seconds:.1f} s"


def overview(store: sqlite3.Connection) -> Iterator[str]:
    """Hours, sets, speakers, languages, lengths and formats of the usable part.

    Args:
        store: behind `survey.split`.

    Yields:
        Lines.
    """
    count, seconds, sentences = store.execute(
        "SELECT count(*), sum(seconds), count(DISTINCT sentence) FROM usable"
    ).fetchone()
    yield f"{count} utterances, {duration(seconds)}, {sentences} different sentences."
    yield ""
    yield "| set | utterances | sentences | length |"
    yield "|---|---:|---:|---:|"
    for part in SETS:
        row = store.execute(
            "SELECT count(*), count(DISTINCT sentence), sum(seconds) FROM usable WHERE part = ?", (part,)
        ).fetchone()
        yield f"| {part} | {row[0]} | {row[1]} | {duration(row[2] or 0)} |"
    yield ""
    yield "A hash of the sentence decides the set: no sentence is in two of them."
    for column in ("speaker", "language"):
        yield from groups(store, column)
    yield ""
    yield "## Lengths"
    yield ""
    yield from lengths(store, count)
    yield ""
    formats = store.execute(
        "SELECT rate, channels, count(*) FROM usable JOIN audio ON path = audio GROUP BY 1, 2 ORDER BY 3 DESC"
    )
    listed = [f"{rate} Hz, {channels} channel{'s' * (channels > 1)}: {number}" for rate, channels, number in formats]
    yield f"Formats: {'; '.join(listed[:MOST_LISTED])}{' …' * (len(listed) > MOST_LISTED)}."


def groups(store: sqlite3.Connection, column: str) -> Iterator[str]:
    """Speakers, or languages, with the length of each; nothing where no utterance names one."""
    number = store.execute(f"SELECT count(DISTINCT {column}) FROM usable WHERE {column} != ''").fetchone()[0]
    if not number:
        return
    query = f"SELECT {column}, count(*), sum(seconds) FROM usable GROUP BY 1 ORDER BY 3 DESC LIMIT {MOST_LISTED}"
    listed = [
        f"{shown(name or 'unknown')} ({many}, {duration(seconds)})" for name, many, seconds in store.execute(query)
    ]
    more = f" and {number - MOST_LISTED} more ({column}s.tsv)" if number > MOST_LISTED else ""
    yield ""
    yield f"{number} {column}{'s' * (number > 1)}: {', '.join(listed)}{more}."


def lengths(store: sqlite3.Connection, count: int) -> Iterator[str]:
    """Percentiles and a histogram of the utterances' lengths."""
    found = []
    for share in (0, 5, 25, 50, 75, 95, 100):
        place = round((count - 1) * share / 100)
        seconds = store.execute(f"SELECT seconds FROM usable ORDER BY seconds LIMIT 1 OFFSET {place}").fetchone()[0]
        found.append((share, seconds))
    yield (
        ", ".join(
            f"{'shortest' if not share else 'longest' if share == 100 else f'{share} %'} {seconds:.1f} s"
            for share, seconds in found
        )
        + "."
    )
    yield ""
    width = max(found[-1][1] / BARS, 0.1)
    bars = dict(
        store.execute(f"SELECT min(cast(seconds / {width} AS INTEGER), {BARS - 1}), count(*) FROM usable GROUP BY 1")
    )
    for bar in range(BARS):
        blocks = round(40 * bars.get(bar, 0) / max(bars.values()))
        yield f"    {bar * width:5.1f} - {(bar + 1) * width:5.1f} s {'#' * blocks} {bars.get(bar, 0)}"


def sound_lines(
    sounds: Sequence[tuple[str, Sound]], bad: Sequence[tuple[str, str]], store: sqlite3.Connection
) -> Iterator[str]:
    """What a sample of the audio sounds like.

    Args:
        sounds: of the sample.
        bad: what of it could not be decoded.
        store: behind `survey.split`.

    Yields:
        Lines.
    """
    heard, count = [sound for _, sound in sounds], store.execute("SELECT count(*) FROM usable").fetchone()[0]
    if not heard:
        yield "No utterance of the sample could be decoded."
        return
    which = (
        "every utterance" if len(heard) == count else f"{len(heard)} utterances that a hash chooses, not on all {count}"
    )
    yield f"Measured on {which}; stage format decodes everything."
    levels = sorted(one.level_db for one in heard)
    yield f"Level of speech {levels[0]:.0f} to {levels[-1]:.0f} dB, median {median(levels):.0f} dB of full scale."
    clipped = [name for name, sound in sounds if sound.clipped]
    yield f"Clipped: {len(clipped)} ({_first(clipped)})." if clipped else "Clipped: none."
    long = sum(max(one.lead_sec, one.trail_sec) > LONG_SILENCE_SEC for one in heard)
    yield (
        f"Silence (medians): {median(one.lead_sec for one in heard):.2f} s in front, "
        f"{median(one.trail_sec for one in heard):.2f} s behind, "
        f"{100 * median(one.pauses for one in heard):.0f} % of the time in between; "
        f"{long} have more than {LONG_SILENCE_SEC} s at an end."
    )
    if bad:
        yield f"Not decodable: {len(bad)} ({bad[0][1]})."


def _first(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:NAMES]) + (" …" if len(names) > NAMES else "")


def characters(store: sqlite3.Connection) -> tuple[Counter[str], Counter[str]]:
    """How often each lower-case character is in the training set, and those that only the other sets have."""
    found = {part: Counter[str]() for part in ("train", "others")}
    for part, text in store.execute("SELECT part, text FROM usable"):
        found["train" if part == "train" else "others"].update(clean_lower(compose(text)[0]))
    return found["train"], Counter(
        {one: number for one, number in found["others"].items() if one not in found["train"]}
    )


def text_lines(counts: Counter[str], strange: Counter[str], choice: TextChoice) -> Iterator[str]:
    """Characters, the rare ones among them, and the tokens that were chosen.

    Args:
        counts: of the training set.
        strange: those of the other sets alone.
        choice: of the tokens.

    Yields:
        Lines.
    """
    listed = [f"{_shown(one)} {number}" for one, number in counts.most_common(MOST_CHARACTERS)]
    more = f" and {len(counts) - MOST_CHARACTERS} more (characters.tsv)" if len(counts) > MOST_CHARACTERS else ""
    yield f"{len(counts)} characters in lower case: {', '.join(listed)}{more}."
    rare = [one for one, number in counts.most_common() if number < FEW]
    if rare:
        more = " …" if len(rare) > MOST_CHARACTERS else ""
        yield f"Rare, fewer than {FEW} times: {' '.join(map(_shown, rare[-MOST_CHARACTERS:]))}{more}."
    if strange:
        yield f"In dev or test alone, unknown to the model: {' '.join(map(_shown, list(strange)[:MOST_CHARACTERS]))}."
    yield f"Tokens: {choice.reason}."
    if choice.unknown:
        words = ", ".join(f"{shown(word)} {number}" for word, number in choice.unknown.most_common(MOST_LISTED))
        yield f"Not known: {words}{' …' * (len(choice.unknown) > MOST_LISTED)}."


def _shown(character: str) -> str:
    return character if character.isprintable() and not character.isspace() else f"U+{ord(character):04X}"


def skipped_lines(store: sqlite3.Connection) -> Iterator[str]:
    """How many of each kind were skipped, and the first of them by name."""
    kinds = skipped_kinds(store)
    if not kinds:
        yield "Nothing."
        return
    yield f"{sum(number for _, number in kinds)}, all by name in `skipped`:"
    yield ""
    for kind, number in kinds:
        for index, (name, reason) in enumerate(skipped_of_kind(store, kind, NAMES)):
            detail = reason.removeprefix(kind).removeprefix(":").strip()
            said = f"{shown(name)}: {detail}" if detail and not detail.startswith(name) else detail or shown(name)
            yield f"- **{number} {kind}**: {said}" if index == 0 else f"  - {said}"
        if number > NAMES:
            yield f"  - … and {number - NAMES} more"


def advice(
    store: sqlite3.Connection,
    sounds: Sequence[tuple[str, Sound]],
    counts: Counter[str],
    choice: TextChoice,
    rate_hz: int,
) -> Iterator[str]:
    """What to change, the gravest first; nothing where all is well.

    Args:
        store: behind `survey.split`.
        sounds: of the sample.
        counts: of characters.
        choice: of the tokens.
        rate_hz: of the codec.

    Yields:
        Sentences.
    """
    count, seconds, sentences = store.execute(
        "SELECT count(*), sum(seconds), count(DISTINCT sentence) FROM usable"
    ).fetchone()
    skipped = sum(number for _, number in skipped_kinds(store))
    if skipped > 0.05 * (count + skipped):
        yield f"{skipped} of {count + skipped} are skipped: see why above, before you train on the rest."
    if seconds < 15 * 60:
        yield f"{duration(seconds)} are little for a voice: begin with another voice's experiment, --init_from EXP."
    if sentences < count / 2:
        yield f"{sentences} sentences in {count} recordings: other sentences teach more than the same again."
    if sentences < 100:
        yield f"{sentences} different sentences leave few to test on: word error rates will be rough."
    low = store.execute("SELECT count(*) FROM usable JOIN audio ON path = audio WHERE rate < ?", (rate_hz,)).fetchone()[
        0
    ]
    if low:
        yield f"{low} utterances have fewer than the {rate_hz} Hz of the codec: they sound dull, and so will the voice."
    little = store.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM usable GROUP BY speaker HAVING sum(seconds) < {LITTLE_SEC})"
    ).fetchone()[0]
    if little:
        yield f"{little} speakers have less than {LITTLE_SEC:.0f} s: too little to be told apart."
    heard = [sound for _, sound in sounds]
    if share := sum(one.clipped for one in heard):
        yield f"{share} of {len(heard)} are clipped, which no codec takes away: record them again with less gain."
    if quiet := sum(one.level_db < AUDIBLE_DB for one in heard):
        yield f"{quiet} of {len(heard)} are below {AUDIBLE_DB:.0f} dB: raise their level."
    if heard and median(one.lead_sec + one.trail_sec for one in heard) > 2 * LONG_SILENCE_SEC:
        yield "Half of the utterances have over a second of silence at their ends: cut it, the model learns it, too."
    rare = [one for one, number in counts.items() if number < FEW and not one.isspace()]
    if choice.token_type == "char" and rare:
        yield f"{len(rare)} characters are too rare to be learned: spell them otherwise (--min_count {FEW}: <unk>)."
    if any(character.isdigit() for character in counts):
        yield "Texts have digits: write numbers as they are spoken."


def write_tables(store: sqlite3.Connection, counts: Counter[str]) -> Iterator[tuple[str, Iterator[str]]]:
    """The long lists beside the page: file name, and its lines."""
    for column in ("speaker", "language"):
        query = f"SELECT {column}, count(*), sum(seconds) FROM usable GROUP BY 1 ORDER BY 3 DESC"
        yield f"{column}s.tsv", (f"{name}\t{number}\t{seconds:.1f}\n" for name, number, seconds in store.execute(query))
    yield "characters.tsv", (f"{_shown(one)}\tU+{ord(one):04X}\t{number}\n" for one, number in counts.most_common())


__all__ = [
    "advice",
    "characters",
    "duration",
    "overview",
    "skipped_lines",
    "sound_lines",
    "text_lines",
    "write_tables",
]
