"""Try every wrong invocation of the table, and count what holds: `python -m tests.faults.wrong`.

Each is run in a fork of this process, in an empty folder. It holds if it ends in one sentence that names the flag or
the file, with exit status 1 or 2, without a file that was written or changed, within some seconds of computing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from linformer_fairseq.io.files import write_text
from tests.faults import world
from tests.faults.commands import COMMANDS
from tests.faults.in_process import alone, run
from tests.faults.invocations import Invocation, invocations, parser_of

SECONDS = 10  # of computing, until a wrong invocation is refused
VALID_SECONDS = 60  # of computing, of each process of a valid one, which may train
WAITING = 90  # s, in which a busy machine should give a process `SECONDS`
MEMORY = 8 << 30
HELD = "held"
ABOUT = """\
`python -m tests.faults.wrong --out docs/benchmarks/wrong.md` generates them from the flags of each command: no number,
a number out of range, nan, inf, nothing, a missing file, a folder for a file and a file for a folder, garbage, flags
that exclude each other. Held is what ends in one sentence that names the flag or file, with exit status 1 or 2, within
10 s of computing, with nothing written."""


def forked(argv: Sequence[str], folder: Path, seconds: int = SECONDS) -> tuple[int, str]:
    """Exit status and all output of a command in a fork of this process, whose computing is limited."""
    output, child_output = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(output)
        for number in (1, 2):
            os.dup2(child_output, number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        try:
            status = alone(list(argv))
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1 if left.code else 0
            if isinstance(left.code, str):
                print(left.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(child_output)
    read = b""
    end = time.monotonic() + WAITING * seconds / SECONDS
    while (left := end - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
        block = os.read(output, 65536)
        if not block:
            break
        read += block
    else:
        os.killpg(child, signal.SIGKILL)
    os.close(output)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, read.decode(errors="replace")


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def verdict(wrong: Invocation, status: int, output: str, changed: bool) -> str:
    """`HELD`, or what is wrong with the end of an invocation."""
    if "Traceback (most recent call last)" in output:
        return "traceback"
    if status < 0:
        return "endless" if -status in (signal.SIGKILL, signal.SIGXCPU) else f"died of signal {-status}"
    if status == 0:
        return "accepted"
    if status not in (1, 2):
        return f"status {status}"
    if changed:
        return "wrote files"
    said = [line for line in output.splitlines() if re.search(r"\berror: ", line)]
    if len(said) != 1 or said[0] != output.splitlines()[-1]:
        return "not one sentence"
    if wrong.named and not any(name and name in said[0] for name in wrong.named):
        return "names neither flag nor file"
    return HELD


def attempt(wrong: Invocation, world_folder: Path, place: Path) -> tuple[str, str]:
    """Run an invocation in an empty folder; its verdict, and all that it printed."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    before = content(world_folder)
    status, output = forked(wrong.argv, place)
    changed = any(place.iterdir()) or content(world_folder) != before
    return verdict(wrong, status, output, changed), output


def import_everything() -> None:
    """What the forks need not import again."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import fairseq_cli.train  # noqa: F401  (sets up logging)
    import torch._dynamo  # noqa: F401
    import transformers  # noqa: F401

    from linformer_fairseq.plugin import register

    register()


def make_world(folder: Path) -> None:
    """The inputs, made in a fork, which may start threads and change what is imported."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
        try:
            world.build(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the inputs could not be made")


def try_all(only: str, every: int, temporary: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Verdicts by command, and a line for each invocation that does not hold."""
    tally: dict[str, Counter[str]] = {}
    broken: list[str] = []
    folder, place = temporary / "world", temporary / "here"
    make_world(folder)
    for command in COMMANDS:
        if not re.search(only, command.words):
            continue
        counts = tally[command.words] = Counter()
        if command.runs:  # else the wrong ones could fail for another reason
            place.mkdir(exist_ok=True)
            valid = (*command.words.split(), *command.valid.replace("{w}", str(folder)).split())
            status, output = forked(valid, place, VALID_SECONDS)
            if status:
                broken.append(f"the valid command ends with {status}: {' '.join(valid)}\n    {output[-1000:]}")
                print(broken[-1], flush=True)
        for wrong in islice(invocations(command, parser_of(command.words, run), folder), 0, None, every):
            found, output = attempt(wrong, folder, place)
            counts[found] += 1
            if found != HELD:
                said = " | ".join(output.strip().splitlines()[-2:])[-400:]
                broken.append(f"{found}: {' '.join(wrong.argv)}\n    {said}".replace(str(temporary), ""))
                print(broken[-1], flush=True)
    return tally, broken


def report(tally: dict[str, Counter[str]]) -> str:
    """A Markdown table of the verdicts."""
    total = sum(tally.values(), Counter[str]())
    rows = [f"| `{name}` | {counts.total()} | {counts[HELD]} |" for name, counts in tally.items()]
    rows.append(f"| all | {total.total()} | {total[HELD]} |")
    return "\n".join(["# Wrong invocations", "", ABOUT, "", "| command | tried | held |", "|---|---:|---:|", *rows, ""])


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.wrong", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="commands whose name matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one of N (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write the tally to")
    a = parser.parse_args()
    import_everything()
    with tempfile.TemporaryDirectory() as temporary:
        tally, broken = try_all(a.only, a.every, Path(temporary))
    text = report(tally)
    print(text)
    if a.out:
        write_text(a.out, text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
