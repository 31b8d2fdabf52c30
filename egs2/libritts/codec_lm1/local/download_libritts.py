"""Parts of LibriTTS from openslr.org: downloaded with resume, checked, unpacked; a part that is there is left alone.

python local/download_libritts.py --out downloads/LibriTTS --part train-clean-100 --part dev-clean --part test-clean
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from espnet_ext.bin import run
from espnet_ext.storage.download import Source, download, extract

URL = "https://www.openslr.org/resources/60"
# SHA-256 of PART.tar.gz as torchaudio checks its own downloads (torchaudio.datasets.LIBRITTS, version 2.11)
CHECKSUMS = {
    "train-clean-100": "c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b",
    "train-clean-360": "ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886",
    "train-other-500": "e35f7e34deeb2e2bdfe4403d88c8fdd5fbf64865cae41f027a185a6965f0a5df",
    "dev-clean": "da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a",
    "dev-other": "d413eda26f3a152ac7c9cf3658ef85504dfb1b625296e5fa83727f5186cca79c",
    "test-clean": "234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5",
    "test-other": "33a5342094f3bba7ccc2e0500b9e72d558f72eb99328ac8debe1d9080402f10d",
}


def fetch_part(part: str, out: Path, url: str, checksum: str) -> None:
    """Make the folder of a part unless it is there.

    Args:
        part: its name.
        out: folder for all parts; the archive is kept beside it.
        url: folder that holds PART.tar.gz.
        checksum: SHA-256 of the archive, hexadecimal.
    """
    if (out / part).is_dir():
        logging.info("%s is there", out / part)
        return
    source = Source(f"{url}/{part}.tar.gz", f"sha256:{checksum}", ", or give a copy with --libritts PATH")
    archive = download(source, out.parent / f"{part}.tar.gz")
    count = extract(archive, f"LibriTTS/{part}", out / part)
    logging.info("%s: %d files; %s may be deleted", out / part, count, archive)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--part", action="append", required=True, choices=CHECKSUMS, help="repeatable")
    parser.add_argument("--url", default=URL, help="folder that holds PART.tar.gz, of a mirror for example")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def fetch_all() -> None:
        for part in args.part:
            fetch_part(part, args.out, args.url.rstrip("/"), CHECKSUMS[part])

    run(fetch_all)


if __name__ == "__main__":
    main()
