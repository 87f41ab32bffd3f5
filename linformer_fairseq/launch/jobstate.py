"""What Slurm says about the job that this process belongs to."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


def still_ours(environ: Mapping[str, str]) -> bool:
    """Whether Slurm takes this start of the job as running: neither cancelled nor queued or started once more."""
    number = environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", "-o", number], capture_output=True, text=True).stdout
    # The number of an array's last element is that of the whole array, of which a line each is shown.
    line = next((line for line in shown.splitlines() if line.startswith(f"JobId={number} ")), "")
    fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
    restarts = environ.get("SLURM_RESTART_COUNT") or "0"
    return (fields.get("JobState"), fields.get("Restarts")) == ("RUNNING", restarts)


def job_name(environ: Mapping[str, str]) -> str:
    """The job as scontrol takes it, which is one element if it is in an array."""
    if "SLURM_ARRAY_TASK_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ["SLURM_JOB_ID"]
