"""The repairs that fairseq 0.12.3 needs on a current Python, PyTorch and NumPy.

Each is a function, with its reason in its docstring, and changes nothing where fairseq works by itself:

    checkpoints.py   load what fairseq writes, and nothing that could run code
    launch.py        start or join the processes of one training run (peers.py says which), with or without GPUs; what
                     they need on CPUs: the default DDP, gathering of logs; an end of those that hang
    precision.py     --bf16 and --amp on a CPU and on CUDA, an error for --fp16 on a CPU and for an unserved GPU; what
                     16-bit training saves, and resuming in another precision
    process.py       exit status 0 after success, no warnings that bury a log, a name that NumPy has removed

`training/hooks.py` replaces functions of fairseq in the same way, and calls launch.py and precision.py there.
`../hydra_plugins/fairseq_user_dir.py` makes `fairseq-hydra-train` load all of this in time.
"""

import atexit
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]

replacements: list[tuple[Any, str, Function]] = []
"""Whose function, its name, and what is called in its place, with fairseq's own as the first argument."""


def replaces(owner: Any, name: str) -> Callable[[Function], Function]:
    """Have `apply` put the function below in the place of `owner.name`."""

    def note(function: Function) -> Function:
        replacements.append((owner, name, function))
        return function

    return note


def apply(around: Callable[[Function, Function], Function]) -> None:
    """Apply the repairs, and replace all functions noted by `around`; `plugin.register` calls this once per process."""
    from linformer_fairseq.compat import checkpoints, launch, process

    checkpoints.read_safely()
    launch.catch_up_in_hydra(around)
    launch.wrap_models()
    process.restore_removed_numpy_names()
    process.silence_known_warnings()
    process.quiet_root_logger()
    atexit.register(process.stop_loading)
    for owner, name, function in replacements:
        setattr(owner, name, around(getattr(owner, name), function))
