"""A core language model from the options that config.yaml holds, with the defaults of those that are left out."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from espnet_ext.codes import CodecSpec
from espnet_ext.errors import UserError
from espnet_ext.model.core_lm import CoreLM, corelms, local_options
from espnet_ext.model.heads import local_transformers
from espnet_ext.model.parts.base import complete_parts
from espnet_ext.model.primary import attention_priors, primaries


@dataclass(frozen=True)
class ModelOptions:
    """What a model is made of, under the names of the command's options.

    Attributes:
        corelm: name of the core LM.
        corelm_conf: its own options.
        primary: name of the primary transformer.
        primary_conf: its options.
        local: name of the local transformer, or several, or "none".
        local_conf: its options; of several by name.
        frame_stacking_factor: S.
        parts: name → options of what is trained beside it.
    """

    corelm: str
    corelm_conf: Mapping[str, Any]
    primary: str
    primary_conf: Mapping[str, Any]
    local: str | Sequence[str]
    local_conf: Mapping[str, Any]
    frame_stacking_factor: int
    parts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, args: Namespace) -> Self:
        """Those of a command's options, or of a config.yaml, which are more."""
        given = {"parts": {}, **vars(args)}  # a config.yaml of an older version has no parts
        options = cls(**{one.name: given[one.name] for one in fields(cls)})
        return options if options.local is not None else replace(options, local="none")

    @property
    def reads(self) -> str:
        """What the core LM is given besides codes, by its name in `data.inputs`."""
        return corelms[self.corelm].reads

    def complete(self) -> Self:
        """The same with all defaults.

        Returns:
            The options.

        Raises:
            UserError: if a name or an option is unknown.
        """
        return replace(
            self,
            corelm_conf=corelms.complete(self.corelm, self.corelm_conf),
            primary_conf=complete_primary_conf(self.primary, self.primary_conf),
            local_conf=complete_local_conf(self.local, self.local_conf),
            parts=complete_parts(self.parts),
        )

    def confs(self) -> dict[str, Mapping[str, Any]]:
        """What the user may say of each part, by the name of the command's option."""
        return {name: getattr(self, name) for name in ("corelm_conf", "primary_conf", "local_conf", "parts")}

    def build(self, spec: CodecSpec, vocabulary: int | CodecSpec) -> CoreLM:
        """The model, with the weights that a training begins with.

        Args:
            spec: the codec's facts.
            vocabulary: ids of the text, or the facts of the semantic units.

        Returns:
            The model.

        Raises:
            UserError: naming the option that is unknown or out of range.
        """
        corelms.check_options(self.corelm, self.corelm_conf)
        kind: Any = corelms[self.corelm]
        try:
            corelm: CoreLM = kind(
                spec,
                vocabulary,
                primary=self.primary,
                primary_conf=self.primary_conf,
                local=self.local,
                local_conf=self.local_conf,
                frame_stacking_factor=self.frame_stacking_factor,
                **self.corelm_conf,
            )
            corelm.add_parts(self.parts)
            return corelm
        except (TypeError, RuntimeError) as error:  # a value of the wrong kind, or a size, found where it is used
            reason = " ".join(str(error).split())
            if isinstance(error, RuntimeError) and not re.search("alloc|overflow|out of memory", reason, re.IGNORECASE):
                raise
            raise UserError(f"{reason[:200]} in one of {str(self.confs())[:1000]}") from None


def complete_local_conf(local: str | Sequence[str], conf: Mapping[str, Any]) -> dict[str, Any]:
    """The local transformers' options with all defaults: options of the one, or by name where `local` is a list."""
    complete = {name: local_transformers.complete(name, own) for name, own in local_options(local, conf).items()}
    return complete.get(local, {}) if isinstance(local, str) else dict(complete)


def complete_primary_conf(primary: str, conf: Mapping[str, Any]) -> dict[str, Any]:
    """The primary transformer's options with all defaults, those of its attention prior too where it has one."""
    complete = primaries.complete(primary, conf)
    own = complete.get("prior_conf") or {}
    if complete.get("prior") not in attention_priors or not isinstance(own, dict):
        return complete  # there is no prior, or the primary says what is wrong
    name = str(complete["prior"])
    return {**complete, "prior_conf": attention_priors[name].complete(attention_priors.complete(name, own))}
