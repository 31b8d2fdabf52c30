"""Stage create_dataset: text, codes, prompts and tokens of the mini corpus, by the first six stages of its recipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from espnet3.components.data.dataset_builder import DatasetBuilder

from espnet_ext.errors import UserError

EGS2 = Path(__file__).resolve().parents[4] / "egs2" / "mini_libritts"
SIZES = ("tiny", "mini")
SETS = ("train", "dev", "test_seen", "test_unseen")


class MiniLibriTTSBuilder(DatasetBuilder):
    """Makes DATA_DIR and DUMP_DIR of a size of the corpus; ESPnet3 calls the four methods in their order."""

    def is_source_prepared(self, **_: Any) -> bool:
        """Whether the archives of the corpus are there, which lie in the repository."""
        return (EGS2 / "corpus" / "MANIFEST.tsv").is_file()

    def prepare_source(self, **_: Any) -> None:
        """Refuse to go on without them.

        Raises:
            FileNotFoundError: always.
        """
        raise FileNotFoundError(f"corpus not found: {EGS2 / 'corpus'} (it is part of the repository; copy it there)")

    def is_built(self, recipe_dir: str, size: str, **_: Any) -> bool:
        """Whether codes of all sets and the tokens are there.

        Args:
            recipe_dir: directory of this recipe.
            size: of the corpus.

        Returns:
            Whether they are.
        """
        data, codes = Path(recipe_dir) / f"data_{size}", Path(recipe_dir) / f"dump_{size}" / "codec_world_vq"
        made = [codes / name / "prompt_wav.scp" for name in SETS]
        return all(path.is_file() for path in [*made, data / "token_list" / "phn_cmudict" / "tokens.txt"])

    def build(self, recipe_dir: str, size: str, **_: Any) -> None:
        """Run the stages; what they have finished earlier stays.

        Args:
            recipe_dir: directory of this recipe.
            size: of the corpus.

        Raises:
            UserError: if there is no such size, or a stage fails.
        """
        if size not in SIZES:
            raise UserError(f"size must be one of {list(SIZES)}, got {size!r}")
        here = Path(recipe_dir).resolve()
        command = ["bash", str(EGS2 / "codec_lm1" / "run.sh"), "--python", sys.executable, "--size", size]
        command += ["--datadir", str(here / f"data_{size}"), "--dumpdir", str(here / f"dump_{size}")]
        command += ["--expdir", str(here / "exp" / f"data_{size}"), "--stop_stage", "token_list"]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise UserError(f"create_dataset must finish, got status {done.returncode}: its messages are above")
