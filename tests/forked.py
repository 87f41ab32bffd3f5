"""fairseq's programs without the seconds of their imports: each is forked from a process that has made them.

    python tests/forked.py SOCKET     that process, whose requests come from an inherited socket

A forked command runs the file of the program as Python would, in a session of its own, and ends as Python would.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Self

# What fairseq and PyTorch read while they are imported; a command with another value needs imports of its own.
READ_BY_IMPORTS = ("PYTHON", "OMP_", "MKL_", "TORCH", "CUDA", "LOGLEVEL", "HYDRA", "LD_", "CXX")
SET_BY_COMPILING = {"TORCHINDUCTOR_CACHE_DIR"}  # by PyTorch itself, in a process that has compiled


class Server:
    """The process with the imports, as long as this object is used."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True)
        self.requests = ours

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Command:
        """Start a program that is a Python file; `subprocess.Popen` with its output in `stdout`."""
        return Command(self.requests, {"command": command, "environment": environment, "folder": str(folder)})


class Command:
    """As much of `subprocess.Popen` as tests need; a signal to its process group reaches it and its children only."""

    def __init__(self, requests: socket.socket, request: Mapping[str, object]) -> None:
        output, child_output = os.pipe()
        status, child_status = os.pipe()
        socket.send_fds(requests, [json.dumps(request).encode()], [child_output, child_status])
        os.close(child_output)
        os.close(child_status)
        self.stdout = open(output, encoding="utf-8", errors="replace")
        self._status = open(status, encoding="ascii")
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = 300) -> int:
        """Its exit status; after so many seconds it is killed, and that is an error."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                self.kill()
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} seconds")
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """All that it prints until its end, or until so many seconds have passed."""
        read: list[str] = []
        with self.stdout:
            while select.select([self.stdout], [], [], timeout)[0] and (text := os.read(self.stdout.fileno(), 65536)):
                read.append(text.decode("utf-8", errors="replace"))
        self.wait(timeout)
        return "".join(read), None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.stdout.close()
        self.wait()


def serve(requests: socket.socket) -> list[str]:
    """Fork a process for each request; returns in such a process only, with the words of its command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, (output, status), *_ = socket.recv_fds(requests, 1 << 20, 2)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            break
        os.close(output)
        os.close(status)
    command = os.fork()
    if command:  # this process waits for the other one, and tells how it ends
        os.close(output)
        os.write(status, f"{command}\n".encode())
        ended = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        os.write(status, f"{ended}\n".encode())
        os._exit(0)
    os.setsid()
    os.close(status)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    words: list[str] = request["command"]
    return words


if __name__ == "__main__":
    for name in ("train", "hydra_train", "preprocess", "validate"):  # the first one sets up logging
        import_module(f"fairseq_cli.{name}")
    import_module("torch._dynamo")  # which the first optimizer imports, for most of the time of a small training
    try:
        sys.argv = serve(socket.socket(fileno=int(sys.argv[1])))
    except ValueError:  # nobody is left who could ask
        sys.exit()
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
