"""A dask cluster of Slurm jobs for `--dask_scheduler`: prints its address and serves until Ctrl-C.

Who does not have your keys, which are made if there are none, can neither give it work nor take it.

python local/slurm_cluster.py --jobs 20 --directive=--partition=cpu --directive=--account=speech
"""

from __future__ import annotations

import argparse
import logging
import signal
from typing import Any

from espnet_ext.bin import run
from espnet_ext.errors import UserError
from espnet_ext.jobs.cluster_keys import cluster_security, keys_directory, make_keys


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8, help="most jobs at a time, one worker each")
    parser.add_argument("--fewest", type=int, default=0, help="jobs that stay when there is nothing to do")
    parser.add_argument("--memory", default="8GB", help="of a job")
    parser.add_argument("--walltime", default="12:00:00", help="of a job")
    parser.add_argument("--interface", help="network to meet in, such as ib0; default: the machine's own choice")
    parser.add_argument("--directive", action="append", default=[], help="line for sbatch, '--gres=gpu:1'; repeatable")
    parser.add_argument("--prologue", action="append", default=[], help="line of the job's script; repeatable")
    return parser


def make_cluster(args: argparse.Namespace) -> Any:
    """The scheduler, on this machine; it submits a job when there is work and ends idle ones.

    Args:
        args: options of this command.

    Returns:
        The cluster.

    Raises:
        UserError: if dask-jobqueue is not installed, or a number is impossible.
    """
    if not 0 <= args.fewest <= args.jobs or args.jobs < 1:
        raise UserError(f"--jobs must be at least 1 and --fewest, got {args.jobs} and {args.fewest}")
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError:
        raise UserError("slurm_cluster needs dask-jobqueue: pip install dask-jobqueue") from None
    if not keys_directory().exists():
        make_keys(keys_directory())
    cluster = SLURMCluster(
        security=cluster_security(keys_directory()),  # the protocol is tls:// then
        cores=1,
        processes=1,
        memory=args.memory,
        walltime=args.walltime,
        job_extra_directives=args.directive,
        job_script_prologue=args.prologue,
        interface=args.interface,
    )
    cluster.adapt(minimum_jobs=args.fewest, maximum_jobs=args.jobs)
    return cluster


def main() -> None:
    """Serve until Ctrl-C."""
    args = get_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with make_cluster(args) as cluster:
        logging.info("--dask_scheduler %s", cluster.scheduler_address)
        signal.pause()


if __name__ == "__main__":
    run(main)
