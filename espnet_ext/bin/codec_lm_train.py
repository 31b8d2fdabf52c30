"""Train a codec language model, or collect its statistics: ESPnet's options plus those of `CodecLMTask`."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_ext.bin import run
from espnet_ext.tasks.codec_lm import CodecLMTask


def main(cmd: Sequence[str] | None = None) -> None:
    """Train.

    Args:
        cmd: command line without the program's name; None for the process's own.
    """
    CodecLMTask.main(cmd=cmd)


if __name__ == "__main__":
    run(main)
