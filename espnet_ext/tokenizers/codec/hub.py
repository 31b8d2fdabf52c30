"""Networks of the `transformers` package, an optional extra: from a directory, from the hub, or with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espnet_ext.errors import UserError, needs_package
from espnet_ext.options import check_flag
from espnet_ext.storage.checkpoint import check_finite
from espnet_ext.storage.torchaudio_shim import import_torchaudio
from espnet_ext.tokenizers.codec.neural import build_seeded
from espnet_ext.tokenizers.codec.weights import one_line

_NOT_OF_THE_NETWORK = ("_name_or_path", "transformers_version", "architectures", "dtype")


@dataclass(frozen=True)
class HubModel:
    """A kind of network.

    Attributes:
        user: who wants it, for errors, such as "codec mimi".
        class_prefix: of the names of the classes in `transformers`.
        model_type: of the checkpoints' configuration.
        published: name of the published weights on the hub.
        option: with which a user names a local directory.
    """

    user: str
    class_prefix: str
    model_type: str
    published: str
    option: str

    def classes(self) -> tuple[Any, Any]:
        """The package's classes of the model and of its configuration.

        Returns:
            Both.

        Raises:
            UserError: if the package is not installed, or has another version
        """
        requirement = "'espnet_ext[hf]'"
        try:
            with needs_package(self.user, requirement):
                import_torchaudio()  # transformers imports it too, and PyPI's may need the shim
                package = importlib.import_module("transformers")
                return getattr(package, f"{self.class_prefix}Model"), getattr(package, f"{self.class_prefix}Config")
        except AttributeError as error:
            raise UserError(f"{self.user} needs another transformers ({error}): pip install {requirement}") from None

    def network(
        self,
        seed: int,
        checkpoint: str | None,
        pretrained: bool,
        config: Mapping[str, object] | None,
        changes: Mapping[str, object] | None = None,
    ) -> Any:
        """The network of a checkpoint, of the published one, or random: what the options of `create` ask for."""
        check_flag("pretrained", pretrained)
        if config is not None and (pretrained or checkpoint is not None or not isinstance(config, Mapping)):
            raise UserError(f"config must be fields of a network with pretrained=false, got {config!r}")
        if pretrained or checkpoint is not None:
            return self.pretrained(str(checkpoint or self.published), changes)
        fields = self.config({**(config or {}), **(changes or {})})
        return build_seeded(lambda: self.classes()[0](fields), seed)

    def rebuild(self, checkpoint: Path, config: Mapping[str, object] | None) -> Any:
        """The network of a configuration that `plain_config` made, its weights yet to be loaded."""
        model_class, config_class = self.classes()
        if config is None:
            raise UserError(f"{self.user.rpartition(' ')[0]} file must hold a configuration: {checkpoint}")
        return model_class(config_class.from_dict(config))

    def config(self, fields: Mapping[str, object] | None) -> Any:
        """A configuration for random weights.

        Args:
            fields: that are not to have their defaults

        Returns:
            The configuration.

        Raises:
            UserError: if a field is unknown or has an impossible value
        """
        config_class = self.classes()[1]
        unknown = sorted(set(fields or {}) - set(config_class().to_dict()), key=str)  # the class would keep them
        try:
            if unknown:
                raise UserError(f"unknown: {unknown}")
            return config_class(**(fields or {}))
        except Exception as error:  # each field of each configuration is checked in its own way
            raise UserError(
                f"config must be fields of {config_class.__name__}, got {fields!r} ({one_line(error)})"
            ) from None

    def pretrained(self, checkpoint: str, changes: Mapping[str, object] | None = None) -> Any:
        """The model of a directory or of the hub, nothing missing.

        Args:
            checkpoint: directory with config.json and weights, or a name on the hub
            changes: fields of the configuration that are to be others than in the checkpoint, which then may hold more
                than the model

        Returns:
            The model.

        Raises:
            UserError: if the checkpoint is of another architecture, or a weight is not finite
            OSError: if it is missing or cannot be downloaded
        """
        model_class, config_class = self.classes()
        package = importlib.import_module("transformers")
        advice = f"a local directory with config.json can be named too: {self.option}=PATH"
        if not Path(checkpoint).is_dir() and (checkpoint.startswith(("/", ".", "~")) or Path(checkpoint).is_file()):
            raise FileNotFoundError(f"checkpoint of {self.user} must be a directory, got {checkpoint}")
        quiet = package.utils.logging
        verbosity = quiet.get_verbosity()
        quiet.set_verbosity_error()  # what it would report is raised below
        try:
            found, _ = package.PreTrainedConfig.get_config_dict(checkpoint)
            if found.get("model_type") != self.model_type:
                raise UserError(
                    f"checkpoint of {self.user} must be of model_type {self.model_type}, "
                    f"got {checkpoint} of {found.get('model_type')}"
                )
            options = {"config": config_class.from_dict({**found, **changes})} if changes else {}
            model, report = model_class.from_pretrained(
                checkpoint, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except OSError as error:
            reason = one_line(error).split(". ")[0]
            raise OSError(f"{self.user} weights of {checkpoint} cannot be read: {reason}; {advice}") from None
        finally:
            quiet.set_verbosity(verbosity)
        wrong = {
            kind: sorted(map(str, names))[:3]
            for kind, names in report.items()
            if names and not (changes and kind == "unexpected_keys")
        }
        if wrong:
            raise UserError(f"checkpoint must hold the weights of {model_class.__name__}, got {checkpoint} ({wrong})")
        check_finite(model.state_dict(), checkpoint)
        return model


def plain_config(model: Any) -> dict[str, Any]:
    """What a network is built from, in types that JSON knows; where it came from is left out."""
    return {key: value for key, value in model.config.to_dict().items() if key not in _NOT_OF_THE_NETWORK}
