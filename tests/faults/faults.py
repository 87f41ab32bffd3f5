"""Break every resumable command in many ways, start it again, and compare the end with that of an undisturbed one.

    python -m tests.faults.faults --report docs/benchmarks/faults.md

A command must end with the same bytes or with one sentence that says why not, at once and when it is started again. The
faults of a command are spread over its steps (injection.py). Afterwards its files are emptied, cut, changed in a bit or
removed, after it has finished and after a kill, and so are its inputs. Exit status 1 if one fault did not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep import extract
from data_prep.__main__ import main as data_prep
from linformer_fairseq.cli import main as linformer
from linformer_fairseq.io.records import read_record
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.plugin import register
from tests.faults.injection import Ended, Fault, Main, run

KINDS = ("kill", "disk full", "read-only", "input/output error", "folder vanishes")
DAMAGES = ("emptied", "cut", "a bit flipped", "removed")
TIMES = ("seconds", "stamps", "inputs")  # in records, what no two runs have in common
UNDISTURBED = Fault("none")
CONFIG = "sources: [{source: text, inputs: [texts]}]\nclean: {min_words: 10}\n"


@dataclass(frozen=True)
class Command:
    """A command that resumes; the first one of `reads` is damaged, too."""

    main: Main
    words: str
    reads: str
    out: str

    @property
    def name(self) -> str:
        return self.words.split()[0]

    def run(self, folder: Path, fault: Fault = UNDISTURBED, more: Sequence[str] = ()) -> Ended:
        return run(self.main, [*self.words.split(), *more], folder, fault, self.out)

    def made(self, folder: Path) -> dict[str, Any]:
        """What it has made, without times."""
        found = {}
        for path in _files(folder / self.out):
            name = str(path.relative_to(folder))
            if "/." not in f"/{name}":
                record = read_record(path) if path.suffix == ".json" else None
                kept = {key: value for key, value in (record or {}).items() if key not in TIMES}
                found[name] = kept if record else path.read_bytes()
                if self.name == "train":  # the rest has times, or tells of the starts
                    found[name] = _digest(path) if path.name == "checkpoint_last.pt" else b""
                if self.name == "encode":
                    found[name] = pq.read_table(path).replace_schema_metadata(None)
        return {"saved": found["saved/checkpoint_last.pt"]} if self.name == "train" else found


def train(words: Sequence[str]) -> int:
    """fairseq-train, of which `words` begin with a name for the tally."""
    from fairseq_cli.train import cli_main

    sys.argv = ["fairseq-train", *words[1:]]
    cli_main()
    return 0


TRAINING = (
    f"train data/shard00 --user-dir {USER_DIR} --task masked_lm --criterion masked_lm --arch linformer_roberta_tiny "
    "--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2 --batch-size 4 "
    "--tokens-per-sample 32 --projected-length 8 --optimizer adam --lr-scheduler fixed --lr 1e-3 --max-update 6 --cpu "
    "--save-interval-updates 2 --no-epoch-checkpoints --disable-validation --log-format json --save-dir saved"
)
COMMANDS = (
    Command(data_prep, "extract --source text texts --file-characters 3000 --out corpus", "texts", "corpus"),
    Command(data_prep, "clean corpus --config config.yaml --out clean", "corpus", "clean"),
    Command(data_prep, "dedup clean --config config.yaml --out dedup", "clean", "dedup"),
    Command(data_prep, "decontaminate dedup --benchmarks bench --out free", "dedup", "free"),
    Command(data_prep, "split free --valid 0.2 --test 0.2 --out split", "free", "split"),
    Command(data_prep, "tokenizer split/train --vocab-size 384 --out tokenizer", "split/train", "tokenizer"),
    Command(data_prep, "binarize split --tokenizer tokenizer --shards 2 --out data", "split/train", "data"),
    Command(
        linformer,
        "encode --checkpoint model.pt --input split/train --window 2 --out v.parquet",
        "split/train",
        "v.parquet",
    ),
    Command(train, TRAINING, "data", "saved"),
)


def make_world(folder: Path, names: Sequence[str]) -> None:
    """Texts, a benchmark and a checkpoint, and what each command makes of them, up to the last one of `names`."""
    extract.SHARD_BYTES = 6000
    chance = random.Random(1)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(500)]
    for number in range(24):
        lines = (" ".join(chance.choices(words, k=12)) for _ in range(12))
        (folder / f"texts/{number:02}.txt").parent.mkdir(exist_ok=True)
        (folder / f"texts/{number:02}.txt").write_text("\n".join(lines))
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "bench/RTE").mkdir(parents=True)
    example = (folder / "texts/03.txt").read_text().split("\n")[2]
    (folder / "bench/RTE/dev.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n0\t{example}\tno\tentailment\n")
    last = max((number for number, command in enumerate(COMMANDS) if command.name in names), default=len(COMMANDS))
    for command in COMMANDS[: last + 1]:
        # What is imported here is so for all that are forked.
        if command.main is data_prep:
            import_module(f"data_prep.{command.name}")
        if command.name == "encode":
            import_module("linformer_fairseq.inference.encoding")
            _make_checkpoint(folder)
        if command.name == "train":
            register()
            import_module("fairseq_cli.train")
        ended = command.run(folder)
        if ended.status:
            raise SystemExit(f"error: {command.words}: {ended.output}")


def _make_checkpoint(folder: Path) -> None:
    from linformer_fairseq.checkpoints.checkpoint import Checkpoint, untrained, write

    model = {"_name": "linformer_roberta_tiny", "max_positions": 64, "projected_length": "16", "encoder_layers": 1}
    task = {"_name": "masked_lm", "data": str(folder / "tokenizer")}
    write(Checkpoint(untrained(model, 384).state_dict(), model, task), folder / "model.pt")


def _digest(path: Path) -> str:
    from linformer_fairseq.checkpoints.checkpoint import digest, read

    return digest(read(path).state)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


def damage(path: Path, how: str) -> None:
    """Change a file as a loss of power, a full disk, a bad sector or a person may do."""
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "a bit flipped" and content:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")


class Trial:
    """One command and its faults, each in a copy of what it reads."""

    def __init__(self, command: Command, world: Path, folder: Path, chance: random.Random) -> None:
        self.command, self.world, self.folder, self.chance = command, world, folder, chance
        self.expected = command.made(world)
        self._reset()
        self.steps = command.run(folder).steps

    def faults(self, number: int) -> Iterator[tuple[str, list[str]]]:
        """Make about `number` faults of each kind; yields the kind, and what did not hold."""
        for kind in KINDS:
            for step in self._spread(number):
                self._reset()
                yield kind, [*self._holds(Fault(kind, step)), *self._ends_well()]
        for step in range(number):
            self._reset()
            yield "file size", [*self._holds(Fault("file size", 200 * 4**step)), *self._ends_well()]
        for state in ("finished", "killed"):
            for _ in range(number):
                for how in DAMAGES:
                    self._reset(finished=state == "finished")
                    if state == "killed":
                        self.command.run(self.folder, Fault("kill", self.steps * 2 // 3))
                    if files := self._outputs():
                        damage(self.chance.choice(files), how)
                        yield f"output {how}, {state}", self._ends_well(["--verify"] if self._verifies() else [])
        for how in DAMAGES[1:]:
            self._reset()
            self.command.run(self.folder, Fault("kill", self.steps * 2 // 3))
            source = self.chance.choice(_files(self.folder / self.command.reads))
            kept, stat = source.read_bytes(), source.stat()
            damage(source, how)
            found = self._holds(UNDISTURBED)
            source.write_bytes(kept)
            os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            yield f"input {how}, killed", [*found, *self._ends_well()]

    def _verifies(self) -> bool:
        return self.command.main is data_prep and self.chance.random() < 0.5

    def _spread(self, number: int) -> list[int]:
        return sorted(self.chance.sample(range(1, self.steps + 1), min(number, self.steps)))

    def _outputs(self) -> list[Path]:
        parts = self.folder / f".{self.command.out}.parts"
        return _files(self.folder / self.command.out) + (_files(parts) if parts.exists() else [])

    def _reset(self, finished: bool = False) -> None:
        """The world as it was before this command, or after it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        names = {"config.yaml", "bench", "model.pt", "tokenizer", self.command.reads.split("/")[0]}
        if finished:
            names.add(self.command.out)
        elif self.command.out in names:
            names.remove(self.command.out)
        for source in (self.world / name for name in names if (self.world / name).exists()):
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            self.folder.mkdir(exist_ok=True)
            copy(source, self.folder / source.name)

    def _holds(self, fault: Fault) -> list[str]:
        """What is wrong with how the command ends with this fault."""
        ended = self.command.run(self.folder, fault)
        killed = ended.status == -9 and fault.kind == "kill"
        gone = fault.kind == "folder vanishes" and not (self.folder / self.command.out).exists()  # after the last step
        if killed or ended.sentence() or (ended.status == 0 and (gone or self._same())):
            return []
        return [f"{self.command.words}, {fault}: status {ended.status}: {ended.output[-2000:]}"]

    def _ends_well(self, more: Sequence[str] = ()) -> list[str]:
        """What is wrong with how it ends when it is started again."""
        ended = self.command.run(self.folder, UNDISTURBED, more)
        if ended.sentence() or (ended.status == 0 and self._same()):
            return []
        return [f"{self.command.words}, again: status {ended.status}: {ended.output[-2000:]}"]

    def _same(self) -> bool:
        try:
            return self.command.made(self.folder) == self.expected
        except Exception:  # a file of its output that cannot be read
            return False


def tally(number: int, folder: Path, names: Sequence[str] = (), seed: int = 1) -> tuple[Counter[str], list[str]]:
    """Try the faults: how many of each kind there were, and what did not hold."""
    (folder / "world").mkdir()
    make_world(folder / "world", names)
    tried: Counter[str] = Counter()
    broken: list[str] = []
    for command in COMMANDS:
        if not names or command.name in names:
            before = len(broken)
            trial = Trial(command, folder / "world", folder / "trial", random.Random(seed))
            fewer = max(1, number // 2)  # of trainings, which take long
            for kind, wrong in trial.faults(fewer if command.main is train else number):
                tried[kind] += 1
                broken += [f"{kind}: {one}" for one in wrong]
            print(f"{command.name}: {tried.total()} tried, {len(broken) - before} broken", flush=True)
    return tried, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=3, help="faults of each kind and command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="chooses steps and files (default: %(default)s)")
    parser.add_argument("--commands", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--report", type=Path, metavar="MD", help="file for the tally")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tried, broken = tally(a.number, Path(folder), a.commands, a.seed)
    print(*broken, sep="\n\n")
    failed = Counter(line.partition(": ")[0] for line in broken)
    rows = "".join(f"| {kind} | {count} | {count - failed[kind]} |\n" for kind, count in tried.items())
    total = f"| **all** | {tried.total()} | {tried.total() - failed.total()} |\n"
    text = f"| fault | tried | held |\n| --- | ---: | ---: |\n{rows}{total}"
    print(text)
    if a.report:
        commands = ", ".join(command.name for command in COMMANDS)
        about = (
            f"`python -m tests.faults.faults --number {a.number} --seed {a.seed}`, over {commands}. Held: it "
            "ended with the same bytes or with one sentence that says why not, at once and when it was started again. "
            "Kills of trainings have [a tally of their own](checkpoints/kills.md).\n"
        )
        a.report.write_text(f"# Faults of disks and processes\n\n{about}\n{text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
