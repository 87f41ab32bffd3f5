"""What a training does beside fairseq's loop, so that it survives a cluster. `apply` hooks it all in:

interrupt.py     a warning signal: every rank stops after the same update, saves, leaves with a status of its own
signals.py       the signals, noted by a thread of each process and passed on by the one that has spawned ranks
saving.py        checkpoints are written in the background, as whole files (files.py)
resuming.py      one training in a folder (lock.py), from a whole checkpoint (damage.py), never past its end
ranks.py         what the first rank finds out, told to all
metrics*.py      figures of each log interval and validation (flops.py, hardware.py)
run_directory*.py   what each start was told, where it ran, what its processes said
memory.py        on a CPU, memory that is freed is kept for the next update
divergence*.py   an end, with the examples named, where the loss is no number or does not come back
"""

from functools import cache

from linformer_fairseq.training import interrupt, memory, metrics_hooks, resuming, run_directory_logs, saving

__all__ = ["apply"]


@cache
def apply() -> None:
    """Hook everything in, once per process, after `compat.apply`. The last one is the first to see a call."""
    memory.keep_freed_memory_of_trainings()
    saving.save_whole_files()
    resuming.go_on_from_whole_checkpoints()
    interrupt.save_and_leave_when_asked()
    run_directory_logs.write_rank_logs()
    metrics_hooks.observe_trainings()
