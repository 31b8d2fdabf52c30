"""What a recogniser heard against what was to be said, with every wrong word marked."""

from __future__ import annotations

import jiwer
from markupsafe import Markup

from espnet_ext.scoring.measures.error_rate import words_of

LEGEND = Markup(
    "<mark>another word</mark> (the right one under the mouse), <del>a word that was not heard</del>, "
    "<ins>a word too many</ins>"
)


def marked(wanted: str, heard: str) -> Markup:
    """The words that were heard, and at their places those that were not, as HTML.

    Args:
        wanted: the text, normalised as the recogniser's words are.
        heard: the recogniser's words.

    Returns:
        Right words as they are, another word in `mark` with the right one as its title, a missing one in `del`, one too
        many in `ins`.

    >>> print(marked("two red dogs", "two bad dogs now"))
    two <mark title="instead of: red">bad</mark> dogs <ins>now</ins>
    """
    right, said = words_of(wanted), words_of(heard)
    if not right:  # jiwer refuses it
        return Markup(" ").join(Markup("<ins>{}</ins>").format(word) for word in said)
    parts = []
    for chunk in jiwer.process_words(" ".join(right), " ".join(said)).alignments[0]:
        there = right[chunk.ref_start_idx : chunk.ref_end_idx]
        here = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "substitute":
            mark = Markup('<mark title="instead of: {}">{}</mark>')
            parts += [mark.format(*pair) for pair in zip(there, here, strict=True)]
        elif chunk.type == "equal":
            parts += map(Markup.escape, here)
        else:
            mark = Markup("<del>{}</del>" if chunk.type == "delete" else "<ins>{}</ins>")
            parts += map(mark.format, there or here)
    return Markup(" ").join(parts)
