"""The repairs that fairseq 0.12.3 needs on a current Python, PyTorch and NumPy.

Importing the package applies them, so `--user-dir linformer_fairseq` is all that a command needs. Each repair is one
function with its reason in its docstring, and each touches nothing where fairseq's own way works:

    checkpoints.py   load what fairseq wrote, and nothing that could run code; never leave a half-written checkpoint
    launch.py        start or join the processes of one training: torchrun, srun or this machine; with or without GPUs
    distributed.py   what those processes need on a CPU: the default DDP, gathering of logs
    precision.py     --bf16 and --amp on a CPU; --bf16 without TPU mode on CUDA; a clear no to --fp16 without CUDA
    numpy2.py        names that NumPy has removed
    noise.py         two warnings that would bury a training log
"""

from functools import cache

from linformer_fairseq.compat import checkpoints, distributed, launch, noise, numpy2, precision
from linformer_fairseq.compat.errors import UsageError

__all__ = ["UsageError", "apply"]


@cache
def apply() -> None:
    """Apply every repair, once per process."""
    checkpoints.allow_what_fairseq_writes()
    checkpoints.explain_refusals()
    checkpoints.copy_atomically()
    launch.start_or_join_all_processes()
    launch.catch_up_in_hydra()
    distributed.wrap_cpu_modules_without_device_ids()
    distributed.gather_without_cuda()
    precision.keep_bf16_off_tpus()
    precision.autocast_on_cpu()
    numpy2.restore_removed_names()
    noise.silence_known_warnings()
