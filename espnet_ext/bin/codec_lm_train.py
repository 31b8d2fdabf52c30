"""Train a codec language model, or collect its statistics: ESPnet's options plus those of `CodecLMTask`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_ext.bin import run
from espnet_ext.storage.shipped import with_shipped_configs
from espnet_ext.tasks.codec_lm import CodecLMTask


def get_parser() -> argparse.ArgumentParser:
    """The options of this command; --config may name one that comes with the package, such as train_mini."""
    return CodecLMTask.get_parser()


def main(cmd: Sequence[str] | None = None) -> None:
    """Train.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    given = sys.argv
    words = with_shipped_configs(given[1:] if cmd is None else cmd, "--config")
    sys.argv = [given[0], *words]  # ESPnet looks there for what --print_config prints, and logs it
    try:
        CodecLMTask.main(cmd=words)
    finally:
        sys.argv = given


if __name__ == "__main__":
    run(main)
