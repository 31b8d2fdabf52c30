"""Who does the work: this process, several processes of this machine, or the workers of a dask cluster."""

from __future__ import annotations

import argparse
import ctypes
import functools
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

from threadpoolctl import threadpool_limits

from espnet_ext import __version__
from espnet_ext.errors import UserError
from espnet_ext.jobs.cluster_keys import COMMAND, cluster_security, keys_directory
from espnet_ext.jobs.processes import run_in_processes

if TYPE_CHECKING:
    from distributed import Client, Future

# what local processes cost before their first task: two of them that import torch, and their end
STARTUP_SECONDS = 3.0
AHEAD = 64  # shards that a cluster is given at a time, at least; one that grows with its work counts them
# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h, in bytes; the second is as large as it allows
MALLOPT = {-1: 2**28, -3: 2**25}

_loaded_in = os.getpid()
_turn = threading.Lock()  # shards change the directory and share models: one at a time in a process


class Task(Protocol):
    """What a worker is given."""

    @property
    def path(self) -> Path:
        """The file it makes."""

    @property
    def items(self) -> Any:
        """What it is about: something with a length."""

    def make(self) -> None:
        """Make the file."""


AnyTask = TypeVar("AnyTask", bound=Task)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The same number of threads in every process: another number may round another way."""
    if count > 1 and os.getpid() != _loaded_in:  # torch would wait for threads that stayed behind
        raise UserError(f"num_threads must be 1 in a forked process (a spawned one may have more), got {count}")
    import torch  # here: the command that only shares the work, and its help, do not wait for it

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _keep_freed_memory() -> None:
    """Let this process use the memory of freed tensors again instead of returning it at once.

    The C library asks the system for new memory for every large array, always in dask's workers, which are started with
    MALLOC_TRIM_THRESHOLD_: the networks of codecs then run at less than half of their speed.
    """
    with suppress(AttributeError, OSError):  # a C library without it
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in MALLOPT.items():
            mallopt(parameter, size)


def _make_elsewhere(task: Task, directory: str, version: str, num_threads: int) -> None:
    """Make a task's file in a process that may be on another machine.

    Args:
        task: what to make.
        directory: that relative paths are relative to.
        version: of espnet_ext, where the command runs.
        num_threads: of torch and BLAS.
    """
    host = socket.gethostname()
    if version != __version__:
        raise UserError(f"worker on {host} must have espnet_ext {version}, got {__version__}")
    _keep_freed_memory()
    with _turn:
        before = os.getcwd()
        try:
            os.chdir(directory)
            if not task.path.parent.is_dir():
                raise FileNotFoundError
        except OSError:
            os.chdir(before)
            raise OSError(
                f"worker on {host} cannot see {Path(directory, task.path.parent)}: "
                "the machines of --dask_scheduler must share a file system, with the same paths"
            ) from None
        try:
            # it is there if a worker died, or was lost, after it had made it and before that was known
            if not task.path.is_file():
                with threads(num_threads):
                    task.make()
        finally:
            os.chdir(before)


@dataclass(frozen=True)
class Workers:
    """Who does the work. Results do not depend on it.

    Attributes:
        nj: processes of this machine; 1 is this process.
        scheduler: address of a running dask scheduler, whose workers are used instead; empty for none.
        num_threads: threads of torch and BLAS in each process.
        startup_seconds: local processes are started when they save more time than this; 0 starts them at once.
    """

    nj: int = 1
    scheduler: str = ""
    num_threads: int = 1
    startup_seconds: float = STARTUP_SECONDS

    def __post_init__(self) -> None:
        if self.scheduler and not re.fullmatch(r"(tcp|tls)://\S+:\d+", self.scheduler):
            raise UserError(f"dask_scheduler must be tls://HOST:PORT or tcp://HOST:PORT, got {self.scheduler!r}")
        for name in ("nj", "num_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    def here(self, tasks: Sequence[AnyTask]) -> Iterator[AnyTask]:
        """The tasks that the caller is to make one by one, until it pays to give the rest to `elsewhere`."""
        if self.scheduler:
            return
        started, items = perf_counter(), 0
        left = sum(len(task.items) for task in tasks)
        for number, task in enumerate(tasks):
            others = min(self.nj, len(tasks) - number)
            expected = (perf_counter() - started) / items * left if items else 0.0  # seconds, alone
            pays_off = expected * (1 - 1 / others) > self.startup_seconds or not self.startup_seconds
            if others > 1 and pays_off:
                return
            yield task
            items, left = items + len(task.items), left - len(task.items)

    def elsewhere(self, tasks: Sequence[AnyTask], done: Callable[[AnyTask], object]) -> None:
        """Make tasks in other processes; returns when the last one is made.

        Args:
            tasks: in the order in which they are begun.
            done: called after each.

        Raises:
            UserError: what a task raised.
            OSError: likewise; or the cluster is out of reach, or a task killed its worker again and again.
        """
        if self.scheduler and tasks:
            with self._client() as client:
                _run_on(client, tasks, self, done)
        elif tasks:
            arguments = (os.getcwd(), __version__, self.num_threads)
            run_in_processes(_make_elsewhere, tasks, arguments, min(self.nj, len(tasks)), done)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        import distributed  # here: it takes half a second, and most commands never need it

        _hush()
        security = None
        if self.scheduler.startswith("tls:"):
            security = cluster_security(keys_directory())
        else:
            _warn_of_others()
        try:
            client = distributed.Client(self.scheduler, timeout="20s", set_as_default=False, security=security)
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise OSError(
                f"dask_scheduler must be the address of a running scheduler, got {self.scheduler!r} ({reason})"
            ) from None
        with client:
            if not client.nthreads():
                logging.warning("%s has no workers yet: waiting for them", self.scheduler)
            yield client


@functools.cache
def _warn_of_others() -> None:
    """Say once in a process that nobody is kept out."""
    logging.warning(
        "a cluster without TLS: whoever reaches the ports of its machines runs code as you; %s tells how to close them",
        COMMAND,
    )


def _hush() -> None:
    """Keep dask's own remarks off the terminal: what matters of them is an error of ours."""
    for name in ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _run_on(client: Client, tasks: Sequence[AnyTask], workers: Workers, done: Callable[[AnyTask], object]) -> None:
    """Keep a cluster busy with tasks; a few are with it at a time, so that its memory does not grow with the corpus."""
    import cloudpickle
    from distributed import as_completed

    waiting = iter(tasks)
    arguments = (os.getcwd(), __version__, workers.num_threads)

    def unpack(content: bytes) -> None:
        import cloudpickle

        make, *values = cloudpickle.loads(content)
        make(*values)

    def submit(task: AnyTask) -> Future[Any]:
        # packed, because the scheduler unpacks what it is given and may run where espnet_ext is not installed
        content = cloudpickle.dumps([_make_elsewhere, task, *arguments])
        future = client.submit(unpack, content, key=f"shard-{uuid4().hex}", pure=False)
        running[future.key] = task
        return future

    running: dict[Any, AnyTask] = {}
    ahead = max(AHEAD, 4 * sum(client.nthreads().values()))
    first = [submit(task) for task in islice(waiting, ahead)]
    finished = as_completed(first, loop=client.loop, raise_errors=False)
    del first
    for future in finished:
        task = running.pop(future.key)
        _check(future, task, workers.scheduler)
        future.release()  # else the cluster would make it again if it lost the worker that made it
        done(task)
        following = next(waiting, None)
        if following is not None:
            finished.add(submit(following))


def _check(future: Future[Any], task: Task, scheduler: str) -> None:
    from distributed import KilledWorker

    if future.status == "finished":
        return
    if future.status in ("cancelled", "lost"):
        raise OSError(f"lost the connection to the dask scheduler {scheduler}: the same command continues")
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise OSError(
            f"{task} killed its worker {error.allowed_failures + 1} times, for lack of memory perhaps"
        ) from None
    if isinstance(error, ImportError):
        raise UserError(
            f"the workers of {scheduler} must have what this command uses, espnet_ext {__version__} included: {error}"
        ) from None
    raise error


def add_worker_options(parser: argparse.ArgumentParser, nj: int = 1) -> None:
    """Add --nj, --dask_scheduler and --force.

    Args:
        parser: of a command.
        nj: default.
    """
    parser.add_argument("--nj", type=int, default=nj, help="processes of this machine")
    parser.add_argument(
        "--dask_scheduler", default="", metavar="ADDRESS",
        help="use the workers of this dask scheduler instead, tls://HOST:PORT; they must see the same files",
    )  # fmt: skip
    add_force_option(parser)


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add --force."""
    parser.add_argument("--force", action="store_true", help="make everything again, though nothing has changed")
