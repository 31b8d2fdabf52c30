"""The scalar measures of a system: where scores.json holds them, how they are shown, which direction is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_ext.scoring.tables.markdown import number

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """One number of a system.

    Attributes:
        label: heading of its column.
        better: "lower", "higher", "one" (the nearer to 1), or "" where it is a fact and no merit.
        digits: decimals that are shown.
        what: one sentence for readers who do not know it.
        place: keys that lead to it in the measures of a system; empty: it is one of "measures".
        factor: what it is multiplied with to be shown, 100 for a share in percent.
    """

    label: str
    better: str
    digits: int
    what: str
    place: tuple[str, ...] = ()
    factor: float = 1.0


MEASURES: dict[str, Measure] = {
    "wer": Measure("WER %", "lower", 1, "word error rate of a recogniser", ("wer", "rate"), 100),
    "cer": Measure("CER %", "lower", 1, "character error rate of a recogniser", ("cer", "rate"), 100),
    "frechet": Measure(
        "codec FD",
        "lower",
        4,
        "Fréchet distance of the codec frames that are said to those of the recordings",
        ("frechet", "distance"),
    ),
    "frechet_heard": Measure(
        "FD, heard",
        "lower",
        3,
        "Fréchet distance of the frames that the codec makes of the audio to those of the recordings",
        ("frechet_heard", "distance"),
    ),
    "speaker": Measure("speaker own", "higher", 3, "similarity to the speaker of the prompt", ("speaker", "own")),
    "dnsmos_ovrl": Measure("DNSMOS", "higher", 2, "DNSMOS P.835, overall quality, 1 to 5"),
    "dnsmos_sig": Measure("DNSMOS sig", "higher", 2, "DNSMOS P.835, quality of the speech, 1 to 5"),
    "dnsmos_bak": Measure("DNSMOS bak", "higher", 2, "DNSMOS P.835, absence of noise, 1 to 5"),
    "utmos": Measure("UTMOS", "higher", 2, "UTMOS, naturalness, 1 to 5"),
    "mcd": Measure("MCD dB", "lower", 2, "mel-cepstral distortion along the best alignment with the recording"),
    "log_f0_rmse": Measure(
        "log F0 RMSE", "lower", 3, "difference of log F0 where both are voiced, along the same alignment"
    ),
    "duration_ratio": Measure("duration ratio", "one", 2, "length over that of the recording", ("duration_ratio",)),
    "rtf": Measure("RTF", "lower", 3, "seconds of work per second of speech, codec included", ("rtf",)),
    "frames_per_second": Measure(
        "frames / s", "higher", 0, "codec frames per second of the language model", ("timing", "frames_per_second")
    ),
    "local_passes_per_frame": Measure(
        "local passes / frame", "", 2, "passes of the local head per frame", ("timing", "local_passes_per_frame")
    ),
}


def measure(key: str) -> Measure:
    """What is known of a measure; one that an evaluator of another package brought is shown as it is.

    Args:
        key: its name in scores.json.

    Returns:
        The description.
    """
    return MEASURES.get(key) or Measure(key.replace("_", " "), "higher", 2, f"{key}, by an evaluator of its own")


def value_of(scores: Result, key: str) -> float | None:
    """A number of a system, as scores.json has it.

    Args:
        scores: measures of the system.
        key: name of the number.

    Returns:
        The number; None where it could not be measured.

    >>> value_of({"wer": {"rate": 0.25}, "measures": {"mcd": {"value": 6.5}}}, "wer")
    0.25
    >>> value_of({"wer": None, "measures": {}}, "wer") is None
    True
    """
    found: Any = scores
    for part in measure(key).place or ("measures", key, "value"):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return None if found is None else float(found)


def interval_of(scores: Result, key: str) -> tuple[float, float] | None:
    """The 95 % interval of a number of a system.

    Args:
        scores: measures of the system.
        key: name of the number.

    Returns:
        Both ends; None where there is none. That of a distance belongs to its bias-corrected value.
    """
    place = measure(key).place
    block = scores.get(place[0]) if len(place) > 1 else (scores.get("measures") or {}).get(key)
    ends = block.get("interval") if isinstance(block, Mapping) else None
    return None if ends is None else (float(ends[0]), float(ends[1]))


def shown(scores: Result, key: str) -> str:
    """A number of a system as tables show it, a dash where there is none.

    >>> shown({"wer": {"rate": 0.2512}}, "wer")
    '25.1'
    """
    found, value = measure(key), value_of(scores, key)
    return number(None if value is None else found.factor * value, found.digits)
