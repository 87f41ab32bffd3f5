"""Runs each cell in a process of its own, forked from one that has imported everything and computed nothing."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import platform
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import linformer_fairseq.layers

PACKAGES = ("torch", "ve-fairseq", "linformer")
Told = Callable[[float], None]


class Died(Exception):
    """A process that ended without a result."""


def isolated(work: Callable[..., Any], *args: Any, told: Told | None = None) -> Any:
    """What `work(*args)` returns in a process of its own; with `told`, also `told=` is given to it and told here.

    Raises:
        Died: the process was killed, most likely for lack of memory.
        RuntimeError: `work` raised, with its traceback.
    """
    # Forked, so that a cell does not import fairseq first; this process has no threads of OpenMP that would be lost.
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, work, args, told is not None), daemon=True)
    process.start()
    send.close()
    try:
        while True:
            kind, value = receive.recv()
            if kind == "result":
                process.join()
                return value
            if kind == "error":
                raise RuntimeError(value)
            if told is not None:
                told(value)
    except EOFError:
        process.join()
        raise Died(f"its process ended with exit code {process.exitcode}") from None
    finally:
        if process.is_alive():
            process.terminate()
            process.join()


def _child(send: Connection, work: Callable[..., Any], args: tuple[Any, ...], tells: bool) -> None:
    try:
        extra = {"told": lambda value: send.send(("told", value))} if tells else {}
        send.send(("result", work(*args, **extra)))
    except KeyboardInterrupt:
        pass
    except BaseException:
        send.send(("error", traceback.format_exc()))


def machine(device: str, threads: int) -> dict[str, Any]:
    """What figures depend on: device, threads and versions. To be called in a process of its own."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {os.cpu_count()} cores"
    if device == "cpu":
        name += f", {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "threads": threads,
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
    }


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def layer_digest() -> str:
    """Identifies the state of this project's layers."""
    folder = Path(next(iter(linformer_fairseq.layers.__path__)))
    sources = b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:12]
