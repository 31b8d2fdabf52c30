"""Kathleen's recordings from an archive, or from their home.

python local/unpack_kathleen.py --archive kathleen-16k.tar --out downloads/kathleen
"""

from __future__ import annotations

import argparse
import logging
import tarfile
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.jobs import Record
from espnet_ext.storage.download import Source, download, extract

URL = "https://github.com/rhasspy/dataset-voice-kathleen/archive/HEAD.tar.gz"
FOLDER = "data"


def folder_in(archive: Path) -> str:
    """The folder of the recordings: data, below a folder that has the name of the version where there is one."""
    try:
        with tarfile.open(archive) as stream:
            first = next(iter(stream), None)
    except tarfile.TarError as error:
        raise UserError(f"--corpus must be a tar archive or a folder, got {archive} ({error})") from None
    top = "" if first is None else first.name.removeprefix("./").partition("/")[0]
    return FOLDER if top == FOLDER else f"{top}/{FOLDER}"


def unpack(archive: Path | None, out: Path) -> None:
    """Unpack the recordings unless the same archive was unpacked before.

    Args:
        archive: tar archive; None downloads it.
        out: folder to make.

    Raises:
        FileNotFoundError: if there is no such archive.
    """
    if archive is None:
        source = Source(URL, advice=", or give a copy with --corpus PATH")
        archive = download(source, out.parent / "dataset-voice-kathleen.tar.gz")
    if not archive.is_file():
        raise FileNotFoundError(
            f"--corpus {archive} must be a folder of recordings or a tar archive, found nothing there"
        )
    record = Record.of(out, {"archive": archive.name}, [archive])
    if record.make(lambda: extract(archive, folder_in(archive), out)):
        logging.info("%s is unpacked from %s", out, archive)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", default="", help="tar archive; empty: download it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: unpack(Path(args.archive) if args.archive else None, args.out))


if __name__ == "__main__":
    main()
