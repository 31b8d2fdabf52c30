"""Processes of this machine that work for this one: each has a pipe to it, which no other user can reach."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 0.3  # that the others have to finish a task behind an error: what is nearly done is not lost
TIDY_SECONDS = 2.0  # that processes have to remove their temporary files
MOST_KILLS = 4  # of processes by one task: then it is the task's fault


def _stop(*_: object) -> None:
    """End this process, once, so that the temporary files of its task are removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def _end_with_parent() -> None:
    """Wait until the process that started this one has ended, killed perhaps: nobody wants the rest of a task then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _serve(pipe: Connection) -> None:
    """Do what comes through the pipe until it is closed; None goes back for each, or the error."""
    import cloudpickle

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            content = pipe.recv_bytes()
        except EOFError:
            return
        answer: Exception | None = None
        try:
            function, *arguments = cloudpickle.loads(content)
            function(*arguments)
        except Exception as error:  # whatever it is, it is the caller's
            answer = error
            answer.add_note(traceback.format_exc())
        try:
            sent = cloudpickle.dumps(answer)
            cloudpickle.loads(sent)
        except Exception:  # an error whose class cannot be made again from what it keeps
            notes = "".join(getattr(answer, "__notes__", ()))
            sent = cloudpickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}\n{notes}"))
        pipe.send_bytes(sent)


def _start() -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    resource_tracker.ensure_running()  # starting it unblocks signals
    # A process inherits the blocked signals of the thread that starts it: Ctrl-C, which the terminal sends to all of
    # them, is then this one's business alone, also where a new process replaces a killed one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # its end is then the process's end
    return ours, process


def _end(processes: Sequence[SpawnProcess]) -> None:
    """End processes without waiting for what they are doing."""
    for process in processes:
        process.terminate()
    until = monotonic() + TIDY_SECONDS
    for process in processes:
        process.join(max(0.0, until - monotonic()))
        process.kill()


def _wait_a_little(pipes: Iterable[Connection]) -> None:
    """Wait until all processes have answered, but not for long."""
    left, until = list(pipes), monotonic() + GRACE_SECONDS
    while left and (ended := wait(left, max(0.0, until - monotonic()))):
        left = [pipe for pipe in left if pipe not in ended]


def run_in_processes(
    function: Callable[..., object], tasks: Sequence[T], arguments: Sequence[object], count: int,
    done: Callable[[T], object],
) -> None:  # fmt: skip
    """Call a function of every task in several processes; a process that is killed is replaced, its task done again.

    Args:
        function: of a task and the arguments.
        tasks: in the order in which they are begun; one at a time is with a process.
        arguments: the same for all.
        count: of processes.
        done: called with each task that is done.

    Raises:
        OSError: if a task ends its process again and again.
        BaseException: what the function raised.
    """
    import cloudpickle

    waiting, kills = list(reversed(tasks)), Counter[int]()
    processes: dict[Connection, SpawnProcess] = dict(_start() for _ in range(count))
    idle, busy = list(processes), dict[Connection, T]()
    try:
        while waiting or busy:
            while waiting and idle:
                pipe, task = idle.pop(), waiting.pop()
                busy[pipe] = task
                with suppress(OSError):  # its process was killed meanwhile, which is seen below
                    pipe.send_bytes(cloudpickle.dumps([function, task, *arguments]))
            ready = wait(list(busy))
            for pipe in [one for one in busy if one in ready]:
                task = busy.pop(pipe)
                try:
                    answer = cloudpickle.loads(pipe.recv_bytes())
                except (EOFError, OSError):
                    kills[id(task)] += 1
                    if kills[id(task)] == MOST_KILLS:
                        raise OSError(
                            f"{task} killed its worker {MOST_KILLS} times, for lack of memory perhaps"
                        ) from None
                    waiting.append(task)
                    pipe.close()
                    processes.pop(pipe).join()
                    pipe, process = _start()
                    processes[pipe] = process
                else:
                    if answer is not None:
                        _wait_a_little(busy)
                        raise answer
                    done(task)
                idle.append(pipe)
    except BaseException:
        _end(list(processes.values()))
        raise
    finally:
        for pipe in processes:
            pipe.close()
        for process in processes.values():
            process.join()
