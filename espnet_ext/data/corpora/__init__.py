"""Corpora as people keep them, each layout a reader that yields utterances; other packages add theirs."""

from espnet_ext.data.corpora import beside, hugging_face, kaldi, lhotse, table  # noqa: F401 (they register themselves)
from espnet_ext.data.corpora.base import Layout, Skipped, Source, Utterance, find_layout, layouts, register_layout

__all__ = ["Layout", "Skipped", "Source", "Utterance", "find_layout", "layouts", "register_layout"]
