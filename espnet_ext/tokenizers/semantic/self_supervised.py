"""Semantic tokenizers `hubert_km` and `xlsr_km`: k-means on a layer of a self-supervised network of `transformers`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from espnet_ext.errors import UserError
from espnet_ext.options import check_number
from espnet_ext.storage.checkpoint import check_finite
from espnet_ext.tokenizers.codec.hub import HubModel, plain_config
from espnet_ext.tokenizers.codec.neural import exactly, spans
from espnet_ext.tokenizers.codec.weights import load_strictly, read_weights, write_weights
from espnet_ext.tokenizers.semantic.base import SemanticTokenizer, register_semantic

CONTEXT_SEC = 2.0  # sound on both sides of a chunk that the network is shown besides
_OPTION = "--semantic_conf model_name_or_path"
_CENTROIDS = "kmeans.centroids"
_EPSILON = 1e-5  # of the wave's normalisation, as in layer norm
_UNMASKED = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False, "layerdrop": 0.0}


class SelfSupervisedTokenizer(SemanticTokenizer):
    """The output of one transformer layer, before any normalisation that follows the last one.

    Layers behind it are neither computed nor stored.

    Args:
        network: of `transformers`, with as many layers as are used
        chunk_sec: longest part of an utterance, in seconds, that the network is given at once

    Attributes:
        hub: where the network comes from.
        default_layer: the layer whose output is used, counted from 1.
    """

    is_network = True
    hub: ClassVar[HubModel]
    network: Any
    default_layer: ClassVar[int]

    def __init__(self, network: Any, chunk_sec: float) -> None:
        config = network.config
        self.hop = math.prod(config.conv_stride)
        super().__init__(self.sample_rate_hz / self.hop)
        self.reach = 1  # samples that a frame sees before the transformer
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.reach = (self.reach - 1) * stride + kernel
        # networks without normalisation over time in their convolutions were trained on waves of one loudness
        self.normalises = config.feat_extract_norm == "layer"
        if config.do_stable_layer_norm:
            network.encoder.layer_norm = nn.Identity()
        self.network = network.eval().requires_grad_(False)
        self.chunk_sec = chunk_sec

    @classmethod
    def learns(cls, conf: Mapping[str, object]) -> bool:
        """Unless a published codebook is named."""
        return conf.get("codebook") is None

    @classmethod
    def create(
        cls,
        seed: int,
        model_name_or_path: str | None = None,
        layer: int | None = None,
        codebook: str | None = None,
        chunk_sec: float = 30.0,
        pretrained: bool = True,
        config: Mapping[str, object] | None = None,
    ) -> Self:
        """A tokenizer with the network of a local directory or of the hub, or with random weights.

        Args:
            seed: of random weights
            model_name_or_path: directory with config.json and weights, or a name on the hub (a download); without it
                the published weights
            layer: whose output is used, counted from 1
            codebook: npy file of published centroids, (K, width of the network); without it they are learned
            chunk_sec: longest part of an utterance that the network is given at once
            pretrained: false gives random weights, which is good for tests only
            config: fields of the configuration of a network with random weights

        Returns:
            The tokenizer.

        Raises:
            UserError: if an option has an impossible value, the package is missing, or a file is another
            OSError: if a file is missing or cannot be downloaded
        """
        check_number("chunk_sec", chunk_sec, least=1)
        layer = cls.default_layer if layer is None else layer
        check_number("layer", layer, least=1, whole=True)
        changes = {**_UNMASKED, "num_hidden_layers": layer}
        network = cls.hub.network(seed, model_name_or_path, pretrained, config, changes)
        if not pretrained and model_name_or_path is None:
            logging.warning("%s has random weights: its units tell nothing", cls.hub.user)
        tokenizer = cls(network, chunk_sec)
        if codebook is not None:
            tokenizer.centroids = _published(Path(str(codebook)), network.config.hidden_size)
        return tokenizer

    @torch.no_grad()
    def features(self, wav: Tensor) -> Tensor:
        """Output of the layer, T = floor((samples - reach) / hop) + 1 or 1: (T, F) float32 on the CPU."""
        if self.normalises:
            wav = nn.functional.layer_norm(wav, wav.shape, eps=_EPSILON)
        wav = nn.functional.pad(wav, (0, max(self.reach - len(wav), 0)))
        frames = (len(wav) - self.reach) // self.hop + 1
        core, context = (max(int(sec * self.frame_rate_hz), 1) for sec in (self.chunk_sec, CONTEXT_SEC))
        parts = []
        with exactly(self.device):
            for span in spans(frames, core, context):
                # what is too short for another frame still counts where a network normalises over time
                end = len(wav) if span.right == frames else (span.right - 1) * self.hop + self.reach
                piece = wav[span.left * self.hop : end].to(self.device)
                hidden = self.network(piece[None]).last_hidden_state[0]
                parts.append(hidden[span.start - span.left : span.stop - span.left].cpu())
        return torch.cat(parts)

    def save(self, checkpoint: Path) -> None:
        """Write network, configuration and centroids as an npz file."""
        state = {**self.network.state_dict(), _CENTROIDS: self.centroids}
        write_weights(checkpoint, state, {**plain_config(self.network), "chunk_sec": self.chunk_sec})

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """The tokenizer stored in a file written by `save`."""
        state, config = read_weights(checkpoint)
        check_finite(state, checkpoint)
        if config is None or _CENTROIDS not in state:
            raise UserError(f"semantic tokenizer file must hold a configuration and centroids: {checkpoint}")
        centroids, chunk_sec = state.pop(_CENTROIDS), config.pop("chunk_sec")
        tokenizer = cls(cls.hub.rebuild(checkpoint, config), chunk_sec)
        load_strictly(tokenizer.network, state, type(tokenizer.network).__name__, checkpoint)
        tokenizer.centroids = centroids
        return tokenizer


def _published(path: Path, width: int) -> Tensor:
    """Centroids of an npy file: (K, width) float32."""
    if not path.is_file():
        raise FileNotFoundError(f"codebook not found: {path}")
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"codebook must be an npy file, got {path} ({' '.join(str(error).split())})") from None
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != width or table.dtype.kind != "f":
        found = getattr(table, "shape", "an archive"), getattr(table, "dtype", "")
        raise UserError(f"codebook must hold float centroids (K, {width}), got {found[0]} {found[1]} in {path}")
    check_finite({"its centroids": table}, path)
    return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32))


@register_semantic("hubert_km")
class HubertTokenizer(SelfSupervisedTokenizer):
    """HuBERT: 16 kHz, 50 units per second."""

    hub = HubModel("semantic tokenizer hubert_km", "Hubert", "hubert", "facebook/hubert-base-ls960", _OPTION)
    default_layer = 9
    default_units = 500


@register_semantic("xlsr_km")
class XlsrTokenizer(SelfSupervisedTokenizer):
    """XLS-R, wav2vec 2.0 trained on many languages: 16 kHz, 50 units per second.

    GPST's paper takes layer 35 of a later model of this kind, which is not on the hub, and 10,000 published centroids:
    a converted checkpoint can be named, and its centroids with ``codebook``.
    """

    hub = HubModel("semantic tokenizer xlsr_km", "Wav2Vec2", "wav2vec2", "facebook/wav2vec2-xls-r-1b", _OPTION)
    default_layer = 35
    default_units = 10_000
