"""The trained model as ESPnet3 asks it: a text and a recording of a voice in, speech out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet3.contract.kinds import Audio

from espnet_ext.inference import CodecLM


class Voice:
    """Speaks as an experiment was decoded, or as is said.

    Args:
        exp_dir: the experiment.
        decoding: strategy; None for what the experiment keeps.
        changes: options of decoding and sampling that differ.
        device: cpu or cuda; ESPnet3 gives it.
    """

    def __init__(
        self, exp_dir: str, decoding: str | None = None, changes: Mapping[str, Any] | None = None, device: str = "cpu"
    ) -> None:
        self.speaker = CodecLM.from_experiment(exp_dir, device=device.partition(":")[0])
        self.changes = {**(changes or {}), **({"decoding": decoding} if decoding else {})}
        self.sample_rate = self.speaker.codec.spec.sample_rate_hz

    def __call__(self, text: str, prompt: Audio) -> dict[str, Audio]:
        """Speech of a text in the voice of a recording; the draws depend on the text and the seed."""
        speech = self.speaker(text, prompt=(prompt.array, prompt.rate), name=text, **self.changes)
        return {"speech": Audio(speech.waveform, speech.sample_rate)}
