"""Whole updates of fairseq-train: ours beside those of fairseq's own Linformer with its Adam and its data path.

    python recipes/reproduce/update_speed.py DATA --out RUN --report docs/benchmarks/updates

DATA is a folder of binarised text. Every measurement is a real training in a process of its own, and they take turns.
Stopped, it goes on where it was: what is in RUN is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
sys.path.insert(0, str(ROOT))

from recipes.reproduce.command import as_typed  # noqa: E402
from recipes.reproduce.efficiency.processes import machine  # noqa: E402
from recipes.reproduce.updates import report  # noqa: E402
from recipes.reproduce.updates.contestants import CONTESTANTS, Contestant, Sizes, arguments  # noqa: E402
from recipes.reproduce.updates.vocabulary import with_symbols  # noqa: E402

TIMED_TRAIN = Path(__file__).parent / "updates/timed_train.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the report."""
    options = _options(argv)
    data = with_symbols(options.data, options.symbols, options.out / f"data-{options.symbols}")
    results: dict[int, dict[str, list[dict[str, Any]]]] = {}
    anatomy: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(options.rounds):
        for n in options.n:
            for contestant in CONTESTANTS:
                run = measured(contestant, Sizes.of(options, n), data, options, f"round-{turn}")
                results.setdefault(n, {}).setdefault(contestant.folder, []).append(run)
    for n in options.n:
        for contestant in CONTESTANTS:
            run = measured(contestant, Sizes.of(options, n), data, options, "profile", profile=options.profile)
            anatomy.setdefault(n, {})[contestant.folder] = [run]
    lines = report.summary(results, options.warm_up)
    command = as_typed(__file__, sys.argv[1:] if argv is None else argv)
    about = {"command": command, "machine": machine(options.device, options.threads)}
    text = report.markdown(lines, anatomy, about, options)
    print(text)
    folder = options.report or options.out
    folder.mkdir(parents=True, exist_ok=True)
    content = {**about, "updates": lines, "anatomy": anatomy, "runs": results}
    for name, written in (("results.json", json.dumps(content, indent=1) + "\n"), ("results.md", text)):
        (folder / f"{name}.part").write_text(written, encoding="utf-8")
        os.replace(folder / f"{name}.part", folder / name)


def measured(
    contestant: Contestant, sizes: Sizes, data: Path, options: argparse.Namespace, name: str, profile: int = 0
) -> dict[str, Any]:
    """What the process of one contestant has written: now, or earlier in the same folder.

    Raises:
        SystemExit: it failed; the end of its log is printed.
    """
    folder = options.out / f"n{sizes.n}" / contestant.folder
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        flags = ["--profile", str(profile), "--k", str(sizes.projected_length)] if profile else []
        command = [sys.executable, str(TIMED_TRAIN), str(result), *flags, "--"]
        command += arguments(contestant, sizes, data, options)
        print(f"n = {sizes.n}, {contestant.name}, {name} …", file=sys.stderr, flush=True)
        with log.open("w", encoding="utf-8") as file:
            environ = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environ, cwd=options.out)
        if done.returncode or not result.exists():
            print(log.read_text(encoding="utf-8")[-3000:], file=sys.stderr)
            sys.exit(f"error: {contestant.name} failed at n = {sizes.n} (exit status {done.returncode}): see {log}")
    content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return content


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of binarised text")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of the single processes")
    parser.add_argument("--report", type=Path, help="folder for results.md and results.json (default: OUT)")
    parser.add_argument("--n", type=int, nargs="+", default=[512, 4096], help="tokens of a row")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of an update")
    parser.add_argument("--updates", type=int, default=8, help="of each training")
    parser.add_argument("--warm-up", type=int, default=3, help="updates at the start that do not count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=int, default=2, metavar="N", help="updates of which the parts are timed")
    parser.add_argument("--symbols", type=int, default=50265, help="fewest symbols of the models; RoBERTa's by default")
    parser.add_argument("--sharing", choices=["headwise", "key-value", "layerwise"], default="layerwise", help="of all")
    parser.add_argument("--task", default="masked_lm", help="of ours: masked_lm or streaming_masked_lm")
    parser.add_argument("--attention-dropout", type=float, default=0.1)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--log-interval", type=int, default=1, help="updates for a line in fairseq's log")
    parser.add_argument("--workers", type=int, default=1, help="processes that load data, beside the training")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="as found by fairseq; for the report")
    for flag, default in (("layers", 12), ("embed-dim", 768), ("ffn-dim", 3072), ("heads", 12), ("k", 256)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    for n in options.n:
        if n < options.k or options.tokens % n:
            parser.error(f"--n {n}: rows are at least --k {options.k} long, and --tokens {options.tokens} a multiple")
    if not 1 <= options.warm_up < options.updates or not 1 <= options.profile < options.updates:
        parser.error("--warm-up and --profile must lie between 1 and --updates")
    return options


if __name__ == "__main__":
    main()
