"""How a test set is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from espnet_ext.jobs import Workers
from espnet_ext.scoring.evaluators.evaluator import Choice


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        workers: who listens to the speech.
        asr: recogniser; None: there are no error rates.
        speaker: speaker encoder; None: nobody compares voices.
        mos: predictors of opinion scores.
        mos_utterances: most utterances of each output that they are asked about, the same of all; 0 for all.
        distortion: whether speech is aligned with its recording.
        vocabulary: further texts whose words may be heard, besides the test set's own, by a recogniser that is given
            its words.
        vocabulary_of: the files that they come from.
        resamples: bootstrap draws.
        seed: of the draws.
        compare: pairs of system names whose difference is wanted; empty: those of `pairs_to_compare`.
        frechet_reference: directory of other codes to measure the distance to; None: those of the test set itself.
        codec_info: codec_info.yaml of the codec, for systems that say no codes; None: they have no distance.
        folder: where finished work is kept for a run that continues; None keeps nothing.
    """

    workers: Workers = Workers()
    asr: Choice | None = Choice("asr", "pocketsphinx", {})
    speaker: Choice | None = Choice("speaker", "resemblyzer", {})
    mos: tuple[Choice, ...] = (Choice("mos", "dnsmos", {}),)
    mos_utterances: int = 0
    distortion: bool = True
    vocabulary: tuple[str, ...] = ()
    vocabulary_of: tuple[str, ...] = ()
    resamples: int = 1000
    seed: int = 0
    compare: tuple[tuple[str, str], ...] = ()
    frechet_reference: Path | None = None
    codec_info: Path | None = None
    folder: Path | None = None

    def part(self, name: str) -> Path | None:
        """A place in `folder` for one kind of work."""
        return None if self.folder is None else self.folder / name
