"""What a recogniser hears of speech, beside what was to be said."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from espnet_ext.errors import UserError
from espnet_ext.scoring.evaluators import Recogniser, recognisers
from espnet_ext.scoring.evaluators.evaluator import Choice
from espnet_ext.scoring.measures.words import recogniser_for, words_to_hear
from espnet_ext.scoring.page.heard import marked


@functools.lru_cache(maxsize=2)
def _load(choice: Choice) -> Recogniser:
    recogniser: Recogniser = recognisers[choice.name](**choice.conf)
    return recogniser


def heard(text: str, samples: NDArray[np.float32], texts: Sequence[str]) -> Markup:
    """The words that the offline recogniser hears, the wrong ones marked, or why it hears none.

    Args:
        text: that was to be said.
        samples: (samples,) at the evaluation rate.
        texts: whose words it may hear as well.

    Returns:
        HTML.
    """
    choice = Choice("asr", recogniser_for([*texts, text]))
    if reason := choice.unavailable():
        return Markup.escape(f"Not heard: {reason}")
    kind = recognisers[choice.name]
    try:
        choice = words_to_hear(choice, [*texts, text])
    except UserError as error:
        return Markup.escape(f"Not heard: {error}")
    words = marked(kind.normalise(text), kind.normalise(_load(choice).recognise(samples))) or "(nothing)"
    among = f", among {len(choice.conf['words'])} words" if kind.hears_given_words else ""
    return Markup("Heard by {}{}: {}").format(choice.name, among, words)
