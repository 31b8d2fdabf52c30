"""What turns sound into ids, a codec or a semantic tokenizer: what both offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import nn

from espnet_ext.codes import CodecSpec


class AudioTokenizer(ABC):
    """Makes ids of sound; all that it needs to do so is in one weights file.

    Attributes:
        spec: codebooks, frame rate, sample rate.
        network: what computes, if it is a network.
        device: where the network computes.
        sample_rate_hz: rate of the audio that it takes or learns from.
        weights_name: name of the weights file inside a directory of its own.
    """

    sample_rate_hz: ClassVar[int]
    weights_name: ClassVar[str]
    spec: CodecSpec
    network: nn.Module | None = None
    device: torch.device = torch.device("cpu")

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: Path) -> Self:
        """What is stored in a weights file, on the CPU.

        Args:
            checkpoint: file written by `save`.

        Returns:
            The codec or tokenizer.
        """

    @abstractmethod
    def save(self, checkpoint: Path) -> None:
        """Write all that `load` needs; equal weights give equal bytes.

        Args:
            checkpoint: file to write, with the suffix of `weights_name`.
        """

    def configure(self) -> None:  # noqa: B027, having no options is the normal case
        """Set what the user may choose about one that exists; subclasses add options whose default is None.

        It is called with the user's options after `create` and with those of `configured` after `load`.
        """

    def configured(self) -> dict[str, object]:
        """What `configure` was called with, in types that yaml knows; the description on disk keeps it."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """This one, its network on a device from now on; without a network it stays on the CPU."""
        if self.network is not None:
            self.device = torch.device(device)
            self.network.to(self.device)
        return self
