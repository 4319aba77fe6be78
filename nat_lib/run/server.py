"""The driver's server: a process that has imported everything once and forks a guard per job.

Starting a job costs a fork instead of nine seconds of imports. The driver makes the listening
socket before it starts Snakemake; a job (`python -m nat_lib job ID`, which Snakemake starts) says
its name and hands over its log, the server forks, and the job ends with the code it is told. The
server dies with the driver, the jobs die with the server, and all of them hold the driver's lock.
"""

import gc
import json
import os
import pkgutil
import select
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from nat_lib.run import guard

NAME = "NAT_SERVER"  # environment variable: name of the socket, in Linux's abstract namespace
# What every part needs, and then what every notebook needs, in this order.
FIRST = (
    "torch",
    "pandas",
    "nat_lib.studies.work",
    "nat_lib.studies.searches",
    "nat_lib.studies.aep",
)
LATER = ("nat_lib.studies.post", "nat_lib.studies.predictors", "papermill", "ipykernel.kernelapp")
NEVER = ("__main__", "run", "nbrun", "nat", "shrink")  # command lines


# ----------------------------------------------------------------------------------------- a job


def ask(job: str, out: str) -> int:
    """Have the server do a job of out/plan.json; without a server it is done here."""
    name = os.environ.get(NAME)
    if not name:
        return guard.run(job, *_work_of(job, out))
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(f"\0{name}")
            request = json.dumps({"job": job, "out": out}).encode()
            socket.send_fds(client, [request], [sys.stdout.fileno(), sys.stderr.fileno()])
            told = client.recv(1)
        except OSError:
            told = b""
    if not told:
        guard.say(f"failed: {job}: the run that started it has ended; {guard.AGAIN}")
        return guard.FAILED
    return told[0]


def _work_of(job: str, out: str):
    """(what does the job in its worker, its limit in seconds)."""
    from nat_lib.run import worker

    found = worker.job_of(Path(out), job)
    return lambda folder: worker.do(found, Path(out), folder), found["timeout"]


# -------------------------------------------------------------------------------------- the server


def main() -> None:
    """`python -m nat_lib.run.server FD`: serve the listening socket that the driver opened."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    for name in FIRST:
        _import(name)
    import_later = [*LATER, *_library()]
    gc.freeze()  # what is there stays shared with the jobs
    devices = gpus()
    running: dict[int, str] = {}  # guard -> GPU
    while True:
        _reap(running)
        ready, _, _ = select.select([listening], [], [], 0 if import_later else 0.5)
        if ready:
            client, _ = listening.accept()
            with suppress(OSError, ValueError, KeyError):
                _serve(client, devices, running)
            client.close()
        elif import_later:
            _import(import_later.pop(0))


def _import(name: str) -> None:
    """Import a module if it can be; the job that needs it tells why it cannot."""
    with suppress(Exception):
        import_module(name)


def _library() -> list[str]:
    """All modules of nat_lib that compute or draw."""
    import nat_lib

    found = []
    for module in pkgutil.walk_packages(nat_lib.__path__, "nat_lib."):
        if not set(module.name.split(".")) & set(NEVER):
            found.append(module.name)
    return found


def _serve(client: socket.socket, devices: list[str], running: dict[int, str]) -> None:
    """Fork a guard for what one client asks for; who it is, the system says."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[1] != os.getuid():
        return
    client.settimeout(10)
    message, log, _, _ = socket.recv_fds(client, 1 << 16, 2)
    client.settimeout(None)
    request = json.loads(message)
    device = free_gpu(devices, list(running.values()))
    try:
        work, limit = _work_of(request["job"], request["out"])

        def placed(folder: Path) -> None:
            if device:
                os.environ["CUDA_VISIBLE_DEVICES"] = device
            work(folder)

        pid = guard.start(request["job"], placed, limit, client, log=log)
        running[pid] = device
    finally:
        for file in log:
            os.close(file)


def _reap(running: dict[int, str]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.pop(ended[0], None)


def gpus() -> list[str]:
    """Identifiers of the GPUs that this process may use, without touching one."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [device for device in listed.split(",") if device.strip()]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return told.stdout.split()


def free_gpu(devices: list[str], taken: list[str]) -> str:
    """The GPU that the fewest jobs work on, the first of these; "" without one."""
    return min(devices, key=taken.count, default="")


if __name__ == "__main__":
    main()
