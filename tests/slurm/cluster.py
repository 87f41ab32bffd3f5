"""A real Slurm on this machine: one slurmctld, a slurmd for each simulated node, and a munged of their own.

Nothing outside one folder under /tmp is written: programs find this Slurm through SLURM_CONF. Nodes are named by
addresses (127.0.0.1, 127.0.0.2, …), so that they can be reached by name without a line in /etc/hosts. GPUs are device
files like /dev/null with names like nvidia0, which is all that Slurm looks at.

By hand: `python tests/slurm/cluster.py NODES GPUS` starts one and waits for Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 240  # seconds for whatever takes a while on a busy machine
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# The waiting times are short, where the defaults are for real machines: a requeued job would wait two minutes. Jobs in
# `priority` take the nodes of those in `main`, which get the signal that they asked for and 20 seconds.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=5,socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
KillWait=5
SlurmdTimeout=20
MessageTimeout=10
CompleteWait=0
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
FirstJobId={first_job}
GresTypes=gpu
NodeName={names} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs=80 Sockets=2 CoresPerSocket=40 \
ThreadsPerCore=1 RealMemory=500000 Gres=gpu:v100:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=priority Nodes=ALL DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "a cluster of simulated nodes needs root"
    absent = [program for program in PROGRAMS if shutil.which(program, path=SEARCH) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurmctld slurmd slurm-client munge"
    return None


class Cluster:
    """A running Slurm with `nodes` nodes of `gpus` GPUs each; stop it."""

    def __init__(self, nodes: int, gpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: its sockets' names are limited
        self.nodes = [f"127.0.0.{node + 1}" for node in range(nodes)]
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
        self.environ |= {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": SEARCH}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._configure(gpus)
            self._start()
        except BaseException:
            self.stop()
            raise

    def _configure(self, gpus: int) -> None:
        for name in ("log", "state", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        for gpu in range(gpus):
            device = self.folder / f"dev/nvidia{gpu}"
            try:
                os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:  # in some containers; then CUDA_VISIBLE_DEVICES is not set
                device.touch()
        names = _ranged("127.0.0.{}", 1, len(self.nodes))
        ports = _free_ports(1 + len(self.nodes))
        devices = _ranged(f"{self.folder}/dev/nvidia{{}}", 0, gpus)
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName={names} Name=gpu Type=v100 File={devices}\n")
        (self.folder / "slurm.conf").write_text(
            CONF.format(
                host=socket.gethostname().split(".")[0],
                folder=self.folder,
                ports=ports,
                names=names,
                node_ports=_ranged("{}", ports[1], len(self.nodes)),
                gpus=gpus,
                first_job=int(time.time()) % 30_000_000 + 1000,  # no number comes twice, as on a real cluster
            )
        )
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)

    def _start(self) -> None:
        place = self.folder / "munge"
        arguments = [f"--key-file={place}.key", f"--socket={place}.socket", f"--pid-file={place}.pid"]
        arguments += [f"--log-file={place}.log", f"--seed-file={place}.seed"]
        self._daemon("munged", "munged", "--foreground", "--force", *arguments)
        wait_for(10, (self.folder / "munge.socket").exists, "munged to answer")
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        wait_for(60, self.all_ready, "all nodes to come up")

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCH)
        assert path is not None
        log = (self.folder / f"log/{name}.out").open("ab")
        self._daemons[name] = subprocess.Popen(
            [path, *arguments], env=self.environ, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._daemon(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill the slurmd of a node, which Slurm takes for the node's end."""
        self._daemons[node].kill()
        self._daemons[node].wait()

    def all_ready(self) -> bool:
        """Whether every node can take jobs."""
        states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()
        return len(states) == len(self.nodes) and set(states) <= {"idle", "mixed", "allocated", "completing"}

    def run(self, *argv: object, check: bool = True, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """Run a program of Slurm; return what it prints."""
        words = [str(word) for word in argv]
        environ = {**self.environ, **(env or {})}
        done = subprocess.run(words, env=environ, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, NodeList, ExitCode …"""
        shown = self.run("scontrol", "show", "job", "-o", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def tasks(self, job: str) -> dict[int, int]:
        """The process of each rank of a job that runs, without those that it has started."""
        found: dict[int, int] = {}
        for pid, environ in sorted(self._processes(), key=lambda item: item[0]):
            if environ.get("SLURM_JOB_ID") == job and "SLURM_STEP_NUM_TASKS" in environ:
                found.setdefault(int(environ["SLURM_PROCID"]), pid)
        return found

    def _processes(self) -> Iterator[tuple[int, dict[str, str]]]:
        """All processes that belong to this cluster, with their environment."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for entry in os.listdir("/proc"):
            if entry.isdigit() and mark in (words := _read(f"/proc/{entry}/environ").split(b"\0")):
                pairs = (word.decode(errors="replace").split("=", 1) for word in words if b"=" in word)
                yield int(entry), {name: value for name, value in pairs}

    def stop(self) -> None:
        """End all jobs and daemons, and remove the folder."""
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            self.run("scancel", "--state=PENDING", "--user=root", check=False)
            self.run("scancel", "--user=root", check=False)
        for name in reversed(self._daemons):
            self._daemons[name].terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid, _ in self._processes():  # steps outlive their slurmd
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(seconds: float, condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` holds; fail after `seconds`, saying that `what` did not come about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # gone in the meantime
        return b""


def _ranged(pattern: str, first: int, count: int) -> str:
    """Slurm's spelling of several names: node[1-8]; a single one must not be a range."""
    return pattern.format(first if count == 1 else f"[{first}-{first + count - 1}]")


def _free_ports(count: int) -> range:
    """Ports in a row that nothing listens on, below those that outgoing connections take."""
    for first in range(17000, 30000, 100):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return range(first, first + count)
    raise RuntimeError("no free ports")


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(reason)
    running = Cluster(int(sys.argv[1]), int(sys.argv[2]))
    try:
        print(f"export SLURM_CONF={running.environ['SLURM_CONF']}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        running.stop()
