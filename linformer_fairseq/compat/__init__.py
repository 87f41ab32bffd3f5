"""The repairs that fairseq 0.12.3 needs on a current Python, PyTorch and NumPy.

Importing `linformer_fairseq` applies them, so `--user-dir linformer_fairseq` is all that a command needs. Each
repair is one function with its reason in its docstring, and touches nothing where fairseq's own way works:

    checkpoints.py   load what fairseq wrote and nothing that could run code
    launch.py        start or join the processes of one training (peers.py says which), with or without GPUs
    distributed.py   what these processes need on CPUs: the default DDP, gathering of logs
    precision.py     --bf16 and --amp on a CPU, --bf16 on CUDA, a clear no to --fp16 on a CPU
    numpy2.py        a name that NumPy has removed
    exiting.py       exit status 0 for a training that has succeeded
    noise.py         warnings that would bury a training log

`../hydra_plugins/fairseq_user_dir.py` belongs to them: it brings them to `fairseq-hydra-train` in time.
"""

from functools import cache

from linformer_fairseq.compat import checkpoints, distributed, exiting, launch, noise, numpy2, precision
from linformer_fairseq.errors import UsageError

__all__ = ["UsageError", "apply"]


@cache
def apply() -> None:
    """Apply every repair, once per process."""
    checkpoints.allow_what_fairseq_writes()
    checkpoints.explain_refusals()
    launch.start_or_join_all_processes()
    launch.catch_up_in_hydra()
    distributed.wrap_cpu_modules_without_device_ids()
    distributed.gather_without_cuda()
    precision.keep_bf16_off_tpus()
    precision.autocast_on_cpu()
    numpy2.restore_removed_names()
    exiting.stop_loading_before_exit()
    noise.silence_known_warnings()
    noise.quiet_root_logger()
