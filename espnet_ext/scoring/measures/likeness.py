"""Whose voice every system has: similarities of its utterances, summed up over utterances, speakers and repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from espnet_ext.scoring.evaluators.voice import Embedding
from espnet_ext.scoring.measures.bootstrap import Resamples, percentiles
from espnet_ext.scoring.measures.speaker import Similarity, similarities
from espnet_ext.scoring.system import Reference, System

Result = dict[str, Any]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of those values that there are; None without any."""
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _summary(chosen: Sequence[Similarity]) -> Result:
    nearest = mean([float(one.nearest) for one in chosen if np.isfinite(one.other)])
    own, other = mean([one.own for one in chosen]), mean([one.other for one in chosen])
    return {"utterances": len(chosen), "own": own, "other": other, "nearest": nearest}


def likeness(
    system: System,
    reference: Reference,
    voices: Sequence[Mapping[str, Embedding]],
    originals: Mapping[str, Embedding],
    resamples: Resamples,
) -> Result:
    """Similarity to the speakers of the prompts, and to others.

    Args:
        system: the system.
        reference: the test set.
        voices: for every repeat, utterance → embedding.
        originals: utterance → embedding of its recording.
        resamples: draws of utterances and repeats.

    Returns:
        Plain values: means, the interval of "own", means by speaker, and to the speaker of the recording ("source") of
        utterances whose prompt had another; "repeats" has "own" of each.
    """
    runs: list[dict[str, Similarity]] = []
    changed = []
    by_speaker: dict[str, list[Similarity]] = {}
    for run, vectors in zip(system.runs, voices, strict=True):
        targets = run.targets(reference)
        runs.append(similarities(vectors, originals, reference.utt2spk, targets))
        source = similarities(vectors, originals, reference.utt2spk, reference.utt2spk)
        changed += [value.own for one, value in source.items() if targets[one] != reference.utt2spk[one]]
        for one, value in runs[-1].items():
            by_speaker.setdefault(targets[one], []).append(value)
    own = np.array([[run[one].own if one in run else np.nan for one in reference.transcripts] for run in runs])
    return {
        **_summary([value for run in runs for value in run.values()]),
        "interval": percentiles(resamples.mean(own)[1]),
        "by_speaker": {name: _summary(by_speaker[name]) for name in sorted(by_speaker)},
        "source": mean(changed),
        "repeats": [mean([value.own for value in run.values()]) for run in runs],
    }
