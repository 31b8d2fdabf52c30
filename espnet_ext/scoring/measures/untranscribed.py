"""Speech that nobody was told to say: it has no error rate, but a length, words of some kind, and a voice."""

from __future__ import annotations

from espnet_ext.scoring.measures.error_rate import words_of
from espnet_ext.scoring.measures.heard import Heard
from espnet_ext.scoring.measures.quality import mean, means
from espnet_ext.scoring.measures.speaker import nearest_voices
from espnet_ext.scoring.scores import Distance, UntranscribedScores
from espnet_ext.scoring.system import Reference, System


def untranscribed_scores(system: System, heard: Heard, reference: Reference, frechet: Distance) -> UntranscribedScores:
    """What can be said of the speech of a system without a text.

    Args:
        system: from `load_untranscribed`.
        heard: what evaluators say.
        reference: the test set, with whose speakers voices are compared.
        frechet: distance of its frames.

    Returns:
        The scores.
    """
    output = heard.outputs[system.name][0]
    texts = output.words.values() if heard.has("wer") else None
    words = None if texts is None else sum(len(words_of(text)) for text in texts)
    seconds = sum(system.seconds.values())
    states = list((system.status or {}).values())
    return UntranscribedScores(
        directory=str(system.directory),
        utterances=len(system.wavs),
        missing=system.missing,
        seconds=seconds,
        words=words,
        words_per_second=words / seconds if words is not None and seconds else None,
        wordless=None if texts is None else sum(not text for text in texts),
        silent=sum("silent" in wrong for wrong in system.conditions.values()),
        clipped=sum("clipped" in wrong for wrong in system.conditions.values()),
        eos_failures=len(states) - states.count("ok") if states else None,
        nearest_voice=mean(nearest_voices(output.voices, heard.originals, reference.utt2spk).values()),
        measures=means(output.numbers),
        unheard=output.unheard,
        rtf=system.cost("rtf"),
        timing=system.timing,
        hypotheses=output.words,
        frechet=frechet,
    )
