"""The repairs that fairseq 0.12.3 needs on a current Python, PyTorch and NumPy.

Each is one function, with its reason in its docstring, and changes nothing where fairseq works by itself:

    checkpoints.py   load what fairseq writes, and nothing that could run code
    launch.py        start or join the processes of one training run (peers.py says which), with or without GPUs
    distributed.py   what these processes need on CPUs: the default DDP, gathering of logs; an end of those that hang
    precision.py     --bf16 and --amp on a CPU and on CUDA, an error for --fp16 on a CPU and for an unserved GPU
    saved_precision.py   what 16-bit training saves, and resuming in another precision
    process.py       exit status 0 after success, no warnings that bury a log, a name that NumPy has removed

`call_main` and `Trainer.__init__` are replaced in `training/hooks.py`, which calls launch.py and precision.py there.
`../hydra_plugins/fairseq_user_dir.py` makes `fairseq-hydra-train` load all of this in time.
"""


def apply() -> None:
    """Apply the repairs; `plugin.register` calls this once per process."""
    from linformer_fairseq.compat import checkpoints, distributed, launch, precision, process, saved_precision

    checkpoints.read_safely()
    launch.catch_up_in_hydra()
    distributed.wrap_cpu_modules_without_device_ids()
    distributed.gather_without_cuda()
    distributed.abort_when_stuck()
    precision.keep_bf16_off_tpus()
    precision.scale_amp_once()
    saved_precision.keep_what_fairseq_forgets()
    process.restore_removed_numpy_names()
    process.stop_loading_before_exit()
    process.silence_known_warnings()
    process.quiet_root_logger()
