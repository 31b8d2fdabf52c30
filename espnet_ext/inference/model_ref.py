"""A trained model by name, so that every worker can be told; each process loads it once unless its files change."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.data.encoding import check_device
from espnet_ext.data.streams import SILENCE_NAME, read_silence
from espnet_ext.errors import UserError
from espnet_ext.fast import FastOptions
from espnet_ext.inference.speaker import Speaker
from espnet_ext.storage.checkpoint import averaged_model_file, weights_file
from espnet_ext.storage.checksums import Stamp, content_hash, stamp_of
from espnet_ext.storage.yaml_files import read_yaml


@dataclass(frozen=True)
class ModelRef:
    """A trained model by name.

    Attributes:
        exp: experiment directory.
        model_file: weights inside of it; None for the average of the best epochs.
        device: where the language model runs, cpu or cuda.
        precision: of its weights, see `FastOptions`; None for a model as it was trained.
        native: whether steps run in the native kernel.
        compile: whether torch.compile makes the kernels of steps.
        batch_size: utterances that are spoken at once.
        most_rows: how many of them are generated at once, at most, the others joining later; None for all.
        text_to_semantic: experiment directory of the model in front of it; None for none.
        silence: token directory with both streams of silence; None to encode it where it is needed.
    """

    exp: Path
    model_file: str | None = None
    device: str = "cpu"
    precision: str | None = None
    native: bool = False
    compile: bool = False
    batch_size: int = 1
    most_rows: int | None = None
    text_to_semantic: Path | None = None
    silence: Path | None = None

    def fast(self) -> FastOptions | None:
        """What may be done to it for the sake of speed; None for nothing, a UserError for an option that is wrong."""
        if self.precision is None:
            if self.native or self.compile:
                name = "native" if self.native else "compile"
                raise UserError(f"{name} must be false without precision, got true: name one, float32 is exact")
            return None
        return FastOptions(self.precision, native=self.native, compile=self.compile)

    def files(self) -> list[Path]:
        """The files whose change makes it another model: configurations, the weights that are used, silence."""
        files = model_files(self.exp, self.model_file)
        files += model_files(self.text_to_semantic) if self.text_to_semantic is not None else []
        return files + ([self.silence / SILENCE_NAME] if self.silence is not None else [])

    def load(self) -> Speaker:
        """The model itself, made fast as it asks for; the one of the last call as long as its files are the same.

        Returns:
            The model, ready to speak.

        Raises:
            FileNotFoundError: if a file of it is missing.
            UserError: if an option is wrong, the files do not fit each other, there is no such device, or the model
                makes no waveforms.
        """
        self.fast()  # a wrong option is refused before anything is loaded
        check_device(self.device)
        return _load_once(self, tuple((path.absolute(), stamp_of(path)) for path in self.files()))


@functools.lru_cache(maxsize=1)
def _load_once(model: ModelRef, files: tuple[tuple[Path, Stamp | None], ...]) -> Speaker:
    speaker = Speaker.from_experiment(model.exp, model.model_file, model.text_to_semantic, model.device)
    if not speaker.says_codes:
        raise UserError(
            f"exp must be an experiment of a model that says codes, got {model.exp}, which says semantic units: "
            f"espnet_ext.bin.gpst_inference --mode tts --text_to_semantic {model.exp} speaks with it"
        )
    fast = model.fast()
    if fast is not None:
        logging.info("%s", speaker.accelerate(fast, model.batch_size))
    speaker.most_rows = model.most_rows
    if model.silence is not None:
        speaker.silence = read_silence(model.silence)
    return speaker


def model_files(exp: Path, model_file: str | None = None) -> list[Path]:
    """The config.yaml of an experiment and the weights that are used, as `ModelRef` names them, if it tells them."""
    config = exp / "config.yaml"
    if model_file is None and (stamp := stamp_of(config)) is not None:
        model_file = weights_file(exp, _averaged(config.absolute(), stamp))
    return [config, exp / model_file] if model_file else [config]


@functools.lru_cache(maxsize=8)
def _averaged(config: Path, stamp: Stamp) -> str:
    return averaged_model_file(read_yaml(config, "config.yaml"))


def model_state(exp: Path, model_file: str | None = None) -> dict[str, object]:
    """What changes with a model, plain values: the contents of config.yaml and of the weights that are used."""
    config, *weights = model_files(exp, model_file)
    return {"weights": {path.name: content_hash(path) for path in weights}, "config": content_hash(config)}
