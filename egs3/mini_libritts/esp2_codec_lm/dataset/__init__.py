"""The mini corpus: how it is made, and its utterances."""

from .builder import MiniLibriTTSBuilder as DatasetBuilder
from .dataset import CodesDataset as Dataset

__all__ = ["Dataset", "DatasetBuilder"]
