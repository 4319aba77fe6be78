"""A notebook's kernel as a fork of this process, which has imported what notebooks import."""

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from nat_lib.run.guard import die_with_parent

NAME = "nat"


class Fork:
    """A child that waits to be told its connection file, then is the kernel.

    Forked before papermill makes threads and sockets. The rest is what `LocalProvisioner` asks of a
    `subprocess.Popen`.
    """

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        parent = os.getpid()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writing)
            die_with_parent(parent=parent)
            with open(reading, encoding="utf-8") as file:
                request = file.read()
            try:
                if request:
                    _become_kernel(**json.loads(request))
            finally:
                os._exit(0)
        os.close(reading)

    def launch(self, command: list[str], cwd: str | None, env: Mapping[str, str]) -> None:
        """Tell the child; it is the kernel from now on."""
        with open(self._writing, "w", encoding="utf-8") as file:
            json.dump({"command": command, "cwd": cwd, "env": dict(env)}, file)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(9)

    def terminate(self) -> None:
        self.send_signal(15)


def _become_kernel(command: list[str], cwd: str | None, env: Mapping[str, str]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    os.environ |= env | {"JPY_PARENT_PID": str(os.getppid())}
    if cwd:
        os.chdir(cwd)
    sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]
    IPKernelApp.launch_instance(command)


class Forked(LocalProvisioner):
    """Launches the kernel that `prepare` has forked."""

    ready: Fork | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any):
        fork = Forked.ready
        assert fork is not None
        fork.launch(cmd, kwargs.get("cwd"), kwargs.get("env") or {})
        self.process = fork  # type: ignore[assignment]  # it does what a Popen does
        self.pid = fork.pid
        self.pgid = None  # it stays in its job's process group: signals go to it alone
        return self.connection_info


def prepare() -> Fork:
    """Fork the kernel of this process's one notebook; the kernel specification names `NAME`."""
    Forked.ready = Fork()
    group = KernelProvisionerFactory.GROUP_NAME
    value = f"{Forked.__module__}:{Forked.__qualname__}"
    factory = KernelProvisionerFactory.instance()
    factory.provisioners[NAME] = EntryPoint(NAME, value, group)
    return Forked.ready


# argv of a kernel specification: what `IPKernelApp` gets
SPECIFICATION = {
    "argv": ["-f", "{connection_file}", "--log-level=50"],
    "display_name": "Python 3 (nat-kit)",
    "language": "python",
    "metadata": {"kernel_provisioner": {"provisioner_name": NAME}},
}
