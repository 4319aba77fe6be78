"""Processes that end with whoever asked for them.

    who asks (python -m nat_lib.nbrun, or the driver's server, see `nat_lib.run.server`)
     `- guard      watches the clock and who asked; kills the whole job and tidies up
         `- worker     leads the job's process group and does it
             `- kernel, and whatever a notebook starts

On Linux each of them asks to be killed when the one above it dies, so nothing of a job outlives its
run, however the run ends. Only the standard library is imported: who asks starts in milliseconds.
"""

import ctypes
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from nat_lib.errors import Refusal

DONE, FAILED, REFUSED = 0, 1, 2  # exit codes
ORPHANED = signal.SIGUSR1
LONGEST = 70  # characters of a folder that sockets are made in; Linux allows 107 for their paths
AGAIN = "finished cells are kept: start it again to go on"


class Failure(Exception):
    """A job ran and failed: one line."""


class _Stopped(Exception):
    """The guard is told to end, or whoever asked is gone."""


def die_with_parent(sig: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask Linux to send `sig` to this process when its parent dies.

    parent : its process id; if it has died before this call, this process ends here
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(sig), 0, 0, 0)  # PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:
        os._exit(FAILED)


def run(name: str, work: Callable[[Path], None], limit: float | None = None) -> int:
    """Do `work` in a worker of its own and wait for it; returns its exit code.

    name  : of the job, for the line that tells a failure
    work  : gets a temporary folder; raises Refusal or Failure
    limit : seconds
    """
    ours, theirs = socket.socketpair()
    pid = start(name, work, limit, theirs, closes=ours)
    try:
        return answer(ours)
    finally:
        ours.close()  # the guard notices, and ends if it has not yet
        os.waitpid(pid, 0)


def answer(client: socket.socket) -> int:
    """The exit code that a guard tells; FAILED if it is gone without telling one."""
    told = client.recv(1)
    return told[0] if told else FAILED


def start(
    name: str,
    work: Callable[[Path], None],
    limit: float | None,
    client: socket.socket,
    closes: socket.socket | None = None,
    log: Sequence[int] = (),
) -> int:
    """Fork a guard with its worker and return its process id; the code is told to `client`.

    closes : end of a connection that only this process shall hold
    log    : files that take the place of standard output and standard error
    """
    asker = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        client.close()
        return pid
    try:
        if closes:
            closes.close()
        for number, file in enumerate(log, start=1):
            os.dup2(file, number)
        _guard(asker, name, work, limit, client)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(FAILED)


# ------------------------------------------------------------------------------------------ guard


def _guard(
    asker: int,
    name: str,
    work: Callable[[Path], None],
    limit: float | None,
    client: socket.socket,
) -> None:
    for sig in (signal.SIGTERM, ORPHANED):
        signal.signal(sig, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is meant for who asked
    os.setsid()
    worker, folder, code = None, None, FAILED
    try:
        die_with_parent(ORPHANED, asker)
        folder = _temporary_folder()
        worker = _fork_worker(work, folder, client, name)
        code = _watch(worker, limit, client, name)
    except _Stopped:
        pass
    except OSError as error:
        say(f"failed: {name}: {error}")
    for sig in (signal.SIGTERM, ORPHANED):
        signal.signal(sig, signal.SIG_IGN)
    if worker:
        with suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        client.send(bytes([code]))
    os._exit(code)


def _stop(*_) -> None:
    raise _Stopped


def _temporary_folder() -> Path:
    """A folder for this job alone, in which sockets can be made."""
    tempfile.tempdir = None  # asked anew: the environment may have changed since the server began
    place = tempfile.gettempdir()
    if len(place) > LONGEST:
        place = "/tmp"
    return Path(tempfile.mkdtemp(prefix="nat-", dir=place))


def _fork_worker(
    work: Callable[[Path], None], folder: Path, client: socket.socket, name: str
) -> int:
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        code = FAILED
        try:
            os.setpgid(0, 0)
            for sig in (signal.SIGTERM, ORPHANED):
                signal.signal(sig, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            die_with_parent(signal.SIGKILL, guard)
            client.close()
            code = _worked(work, folder, name)
        finally:
            os._exit(code)
    with suppress(OSError):  # it may have done so itself, or be gone
        os.setpgid(worker, worker)
    return worker


def _worked(work: Callable[[Path], None], folder: Path, name: str) -> int:
    """Do the work in this process; a failure is the last line of standard error."""
    code = DONE
    try:
        work(folder)
    except Refusal as refusal:
        say(str(refusal))
        code = REFUSED
    except Failure as failure:
        say(f"failed: {name}: {failure}")
        code = FAILED
    except BaseException as error:
        traceback.print_exc()
        say(f"failed: {name}: {type(error).__name__}: {' '.join(str(error).split())}")
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _watch(worker: int, limit: float | None, client: socket.socket, name: str) -> int:
    """Wait for the worker; returns the code of the job. Ends early if the client goes."""
    ends = time.monotonic() + limit if limit else float("inf")
    while True:
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            return _code(status, name)
        if time.monotonic() > ends:
            said = f"stopped after {limit:.0f} s, its limit"
            say(f"failed: {name}: {said}; {AGAIN}, or raise job_hours")
            return FAILED
        gone, _, _ = select.select([client], [], [], 0.05)
        if gone:  # nothing is ever sent: what can be read is the end of the connection
            return FAILED


def _code(status: int, name: str) -> int:
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    say(f"failed: {name}: {death(os.WTERMSIG(status))}; {AGAIN}")
    return FAILED


def death(sig: int) -> str:
    """Why a process ended that a signal ended. Only SIGKILL is how Linux frees memory."""
    if sig == signal.SIGKILL:
        return "it was killed: out of memory? try fewer jobs at a time (--jobs)"
    return f"it was ended by signal {sig} ({signal.strsignal(sig)})"


def say(line: str) -> None:
    """One line for the user, on standard error."""
    print(line, file=sys.stderr, flush=True)
