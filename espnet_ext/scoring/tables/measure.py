"""The scalar measures of a system: where scores.json holds them, how they are shown, which direction is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_ext.scoring.scores import SystemScores
from espnet_ext.scoring.tables.markdown import interval, number

Systems = Mapping[str, SystemScores]  # name → measures
Reasons = Mapping[str, str]  # measure, or beginning of the names of several → why nobody has it


@dataclass(frozen=True)
class Measure:
    """One number of a system.

    Attributes:
        label: heading of its column.
        better: "lower", "higher", "one" (the nearer to 1), or "" where it is a fact and no merit.
        digits: decimals that are shown.
        what: one sentence for readers who do not know it.
        place: fields that lead to it in the scores of a system; empty: it is one of "measures".
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
        "Fréchet distance of the codec frames that are said to those of the recordings, bias-corrected",
        ("frechet", "corrected"),
    ),
    "frechet_heard": Measure(
        "FD, heard",
        "lower",
        3,
        "Fréchet distance of the frames that the codec makes of the audio to those of the recordings, bias-corrected",
        ("frechet_heard", "corrected"),
    ),
    "speaker": Measure("speaker own", "higher", 3, "similarity to the speaker of the prompt", ("speaker", "own")),
    "speaker_prompt": Measure(
        "speaker prompt",
        "higher",
        3,
        "similarity to the recording of the prompt itself",
        ("speaker", "prompt", "value"),
    ),
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


def value_of(scores: SystemScores, key: str) -> float | None:
    """A number of a system, as scores.json has it; None where it could not be measured.

    >>> value_of(SystemScores(rtf=0.25, timing={"frames_per_second": 100}), "frames_per_second")
    100.0
    """
    place = measure(key).place
    found: Any = scores if place else scores.measures.get(key)
    for part in place or ("value",):
        found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
    return None if found is None else float(found)


def interval_of(scores: SystemScores, key: str) -> tuple[float, float] | None:
    """The 95 % interval of a number of a system, if there is one."""
    place = measure(key).place
    block: Any = scores if place else scores.measures.get(key)
    for part in place[:-1]:
        block = getattr(block, part, None)
    return getattr(block, "interval", None)


def speed_points(systems: Systems, key: str) -> dict[str, tuple[float, float]]:
    """A measure and the real-time factor of those systems that generate and have both; controls do not compete."""
    return {
        name: (quality, cost)
        for name, scores in systems.items()
        if scores.generates
        and (quality := value_of(scores, key)) is not None
        and (cost := value_of(scores, "rtf")) is not None
    }


def shown(key: str, value: float | None) -> str:
    """A number as tables show it, a dash for none.

    >>> shown("wer", 0.2512)
    '25.1'
    """
    found = measure(key)
    return number(None if value is None else found.factor * value, found.digits)


def why_absent(key: str, unavailable: Reasons) -> str | None:
    """The reason why nobody has a measure; None where there is none.

    >>> why_absent("dnsmos_sig", {"dnsmos": "speechmos is not installed: pip install speechmos"})
    'speechmos is not installed: pip install speechmos'
    """
    return next((reason for name, reason in unavailable.items() if key == name or key.startswith(f"{name}_")), None)


def cell(scores: SystemScores, key: str, unavailable: Reasons) -> str:
    """A number of a system as a table shows it, or in a word why there is none."""
    value, reason = value_of(scores, key), why_absent(key, unavailable)
    if value is not None or reason is None:
        return shown(key, value)
    return "not installed" if "not installed" in reason else "left out"


def cells(scores: SystemScores, key: str, unavailable: Reasons) -> list[str]:
    """A number of a system and its interval."""
    found = measure(key)
    return [cell(scores, key, unavailable), interval(interval_of(scores, key), found.digits, found.factor)]
