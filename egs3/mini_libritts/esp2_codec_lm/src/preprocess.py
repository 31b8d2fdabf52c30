"""Utterances of the dataset as the model's arrays, and batches of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.preprocessor import AbsPreprocessor
from espnet3.utils.config_utils import convert_to_dict

from espnet_ext.data.preprocess import Array, collate
from espnet_ext.tasks.codec_lm import inputs_of


class Preprocessor(AbsPreprocessor):
    """What the task's preprocessor makes of an utterance.

    Args:
        train: whether prompts are cropped at random; ESPnet3 gives it.
        options: of the model.
    """

    def __init__(self, train: bool, **options: Any) -> None:
        super().__init__(train)
        self.inputs = inputs_of(Namespace(**{name: convert_to_dict(value) for name, value in options.items()}))
        self.preprocess = self.inputs.preprocessor(train)

    def __call__(self, uid: str, data: Mapping[str, Any]) -> dict[str, Array]:
        """Arrays by name; ESPnet3's own id is the utterance's number."""
        read = (*self.inputs.required, *self.inputs.optional)
        return self.preprocess(data["utt_id"], {name: data[name] for name in read if name in data})


class Collate(CommonCollateFn):
    """Pads a batch as the task does; of this class, so that ESPnet3 hands ids over with the utterances."""

    def __call__(self, data: Any) -> Any:
        """Ids and tensors."""
        return collate(data)
