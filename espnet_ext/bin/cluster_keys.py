"""Make the key and certificate that keep others out of a dask cluster, and print the commands that use them.

Commands with ``--dask_scheduler tls://HOST:PORT`` find the keys by themselves. The machines of the cluster must see
them: they lie in ~/.cache/espnet_ext/cluster, or below XDG_CACHE_HOME, where only you can read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from espnet_ext.bin import run
from espnet_ext.jobs.cluster_keys import CERTIFICATE, KEY, keys_directory, make_keys


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="make new ones, which need new clusters")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make keys unless there are some, and print how to start a cluster."""
    args = get_parser().parse_args(arguments)
    place = keys_directory()
    if args.force or not place.exists():
        make_keys(place)
    keys = f"--tls-ca-file {place / CERTIFICATE} --tls-cert {place / CERTIFICATE} --tls-key {place / KEY}"
    print(f"dask scheduler --protocol tls --port 8786 {keys}")  # noqa: T201 (the result is what is asked for)
    print(f"dask worker tls://HOST:8786 --nthreads 1 --nworkers auto {keys}")  # noqa: T201


if __name__ == "__main__":
    run(main)
