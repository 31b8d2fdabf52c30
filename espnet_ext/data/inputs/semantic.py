"""Inputs of a core LM that reads semantic units."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from espnet_ext.codes import CodecSpec
from espnet_ext.data.inputs.base import Inputs, register_inputs
from espnet_ext.data.inputs.facts import Facts, read_facts, spec_of
from espnet_ext.data.joint_preprocess import JointPreprocessor
from espnet_ext.data.streams import frames_within, read_silence
from espnet_ext.errors import UserError
from espnet_ext.options import check_number


@register_inputs("semantic")
class SemanticInputs(Inputs):
    """Semantic units and codes of the same speech."""

    required = ("semantic", "codes")
    optional = ("prompt", "prompt_semantic", "language")
    files = {"semantic": "semantic.scp", "codes": "codes.scp", "language": "utt2lang"}

    @cached_property
    def semantic(self) -> Facts:
        """Facts of the semantic tokenizer."""
        return read_facts("semantic_info", self.args.semantic_info, f"units with corelm {self.args.corelm}")

    @property
    def vocabulary(self) -> CodecSpec:
        """The units."""
        return spec_of(self.semantic)

    def preprocessor(self, train: bool) -> JointPreprocessor:
        """What turns data as read from disk into arrays."""
        args, silence = self.args, None
        join_prompt = args.join_prompt if train else 0.0
        if join_prompt > 0:
            data = args.train_data_path_and_name_and_type
            silence = read_silence(next((Path(path).parent for path, name, _ in data if name == "semantic"), Path()))
        languages = tuple(args.corelm_conf.get("languages") or ())
        return JointPreprocessor(
            self.spec,
            self.vocabulary,
            self.semantic["deduplicate"],
            languages,
            train=train,
            crop_sec=args.crop_sec,
            prompt_sec=args.prompt_sec,
            join_prompt=join_prompt,
            silence=silence,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Codec and semantic tokenizer."""
        return {**super().facts, "semantic_info": self.semantic}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of codes and units."""
        units = self.semantic["fingerprint"]
        return {**super().fingerprints, "semantic": units, "prompt_semantic": units}

    def shapes(self, frames: int, tokens: int) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Units and codes."""
        return {"semantic": (self.vocabulary.codebook_size, (tokens,)), **super().shapes(frames, tokens)}

    def check(self) -> None:
        """Refuse options of other inputs, durations of no frame, and options without their data."""
        args = self.args
        if args.token_list is not None:
            raise UserError(f"token_list must be left out with corelm {args.corelm}, got {args.token_list}")
        check_number("crop_sec", args.crop_sec, least=0)
        check_number("prompt_sec", args.prompt_sec, least=0)
        check_number("join_prompt", args.join_prompt, least=0, most=1)
        # to the preprocessor no frames are no limit
        for name, needed in (("crop_sec", args.crop_sec > 0), ("prompt_sec", args.join_prompt > 0)):
            seconds = getattr(args, name)
            if needed and not frames_within(seconds, self.spec):
                reason = f" with join_prompt {args.join_prompt:g}," if name == "prompt_sec" else ""
                least = f"one codec frame, {1 / self.spec.frame_rate_hz:g} s,"
                raise UserError(f"{name} must be at least {least}{reason} got {seconds}")
        names = {name for _, name, _ in args.train_data_path_and_name_and_type}
        lacking = sorted({"prompt", "prompt_semantic"} - names)
        if args.join_prompt > 0 and names and lacking:
            raise UserError(f"join_prompt must be 0 without data named {lacking}, got {args.join_prompt}")
        languages = args.corelm_conf.get("languages")
        if languages and names and "language" not in names:
            raise UserError(f"corelm_conf languages must be left out without data named language, got {languages}")
