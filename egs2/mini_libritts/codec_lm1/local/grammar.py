"""Sentences of the mini corpus: a small grammar over about a hundred plain words, no sentence twice."""

from __future__ import annotations

import random

DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# plural, so that a number may stand in front; no two words of the vocabulary sound alike
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "many", "some")
COLOURS = (
    "red",
    "green",
    "yellow",
    "purple",
    "silver",
    "golden",
    "little",
    "heavy",
    "broken",
    "hungry",
    "quiet",
    "happy",
)
ANIMALS = ("dogs", "horses", "rabbits", "chickens", "teachers", "farmers", "children", "sisters", "doctors", "brothers")
ACTIONS = (
    "waited",
    "rested",
    "gathered",
    "travelled",
    "played",
    "worked",
    "whispered",
    "jumped",
    "listened",
    "stopped",
)
PLACES = (
    "river",
    "bridge",
    "kitchen",
    "village",
    "castle",
    "station",
    "market",
    "forest",
    "church",
    "mountain",
    "garden",
)
THINGS = ("window", "table", "basket", "letter", "blanket", "door", "bottle", "carpet", "pencil", "pocket", "hammer")
ORDERS = ("open", "close", "carry", "paint", "wash", "find", "bring", "follow", "remember", "forget")
POSITIONS = ("near", "behind", "below", "beside", "across", "before", "inside")
SIZES = ("old", "wooden", "small", "large", "dark", "empty", "famous")
TIMES = ("today", "yesterday", "tonight", "again", "together", "slowly", "quickly")
ARTICLES = ("this", "that", "every")  # "the" is so short that a recogniser loses it in clean speech
LEADS = (("dial",), ("press",), ("this", "number", "is"), ("that", "answer", "is"))
ENDINGS = ("please", "soon")
WORDS = tuple(
    sorted(
        {word for lead in LEADS for word in lead}.union(
            DIGITS,
            COUNTS,
            COLOURS,
            ANIMALS,
            ACTIONS,
            PLACES,
            THINGS,
            ORDERS,
            POSITIONS,
            SIZES,
            TIMES,
            ENDINGS,
            ARTICLES,
        )
    )
)


def _maybe(rng: random.Random, words: tuple[str, ...], probability: float) -> list[str]:
    return [rng.choice(words)] if rng.random() < probability else []


def statement(rng: random.Random) -> list[str]:
    """Words like "two red dogs waited near this old river today"."""
    subject = [rng.choice(COUNTS), *_maybe(rng, COLOURS, 0.6), rng.choice(ANIMALS)]
    place = (
        [rng.choice(POSITIONS), rng.choice(ARTICLES), *_maybe(rng, SIZES, 0.4), rng.choice(PLACES)]
        if rng.random() < 0.65
        else []
    )
    return [*subject, rng.choice(ACTIONS), *place, *_maybe(rng, TIMES, 0.4 if place else 0.8)]


def command(rng: random.Random) -> list[str]:
    """Words like "open that green door behind every church please"."""
    place = (
        [rng.choice(POSITIONS), rng.choice(ARTICLES), *_maybe(rng, SIZES, 0.4), rng.choice(PLACES)]
        if rng.random() < 0.55
        else []
    )
    return [
        rng.choice(ORDERS),
        rng.choice(ARTICLES),
        *_maybe(rng, COLOURS + SIZES, 0.6),
        rng.choice(THINGS),
        *place,
        *_maybe(rng, ENDINGS, 0.4),
    ]


def digit_string(rng: random.Random) -> list[str]:
    """Words like "dial three five nine soon"."""
    digits = [rng.choice(DIGITS) for _ in range(rng.randint(3, 5))]
    return [*rng.choice(LEADS), *digits, *_maybe(rng, ENDINGS, 0.3)]


def unique_sentences(count: int, rng: random.Random) -> list[str]:
    """Different sentences of three to nine words: half statements, a third commands, the rest digit strings.

    Args:
        count: how many.
        rng: the only source of chance.

    Returns:
        Lower-case words joined by one space.
    """
    kinds = (statement, statement, statement, command, command, digit_string)
    seen: dict[str, None] = {}
    while len(seen) < count:
        words = rng.choice(kinds)(rng)
        if 3 <= len(words) <= 9:
            seen.setdefault(" ".join(words))
    return list(seen)
