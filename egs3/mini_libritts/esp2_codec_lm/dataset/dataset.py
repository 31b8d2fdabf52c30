"""Utterances of a directory that stage codec_tokens wrote, by their number."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field

from espnet_ext.data.ark import load_codes_entry
from espnet_ext.data.datadir import read_scp
from espnet_ext.tokenizers.codec import read_codec_info


class CodesDataset(BaseDataset):
    """Text, codes and prompt of every utterance; or, to be spoken, its text and the recording of its prompt.

    Args:
        directory: text, codes.scp, prompt.scp and prompt_wav.scp.
        heard: whether prompts are recordings instead of codes, and there are no other codes.
    """

    def __init__(self, directory: str | Path, heard: bool = False) -> None:
        self.directory, self.heard = Path(directory), heard
        self.fields = (Field("text", "text"), Field("prompt", "audio")) if heard else (Field("text", "text"),)

    @cached_property
    def tables(self) -> dict[str, dict[str, str]]:
        """Name of data → utterance → value in its table."""
        files = {"prompt": "prompt_wav.scp"} if self.heard else {"codes": "codes.scp", "prompt": "prompt.scp"}
        return {name: read_scp(self.directory / file) for name, file in ({"text": "text"} | files).items()}

    @cached_property
    def utterances(self) -> list[str]:
        """Those that all tables have."""
        return [one for one in self.tables["text"] if all(one in table for table in self.tables.values())]

    @cached_property
    def num_codebooks(self) -> int:
        """Codes of a frame."""
        return read_codec_info(self.directory).spec.num_codebooks

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        utterance = self.utterances[int(index)]
        item: dict[str, Any] = {name: table[utterance] for name, table in self.tables.items()}
        if not self.heard:
            for name in ("codes", "prompt"):
                item[name] = load_codes_entry(item[name], self.num_codebooks, utterance).reshape(-1)
        return {"utt_id": utterance, **item}
