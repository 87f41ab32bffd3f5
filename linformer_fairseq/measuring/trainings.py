"""Short trainings of the recipe `tiny_n512_k128` by the real fairseq-train, and perplexity by fairseq-validate."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config, read
from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.progress import parse_line, run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv

RECIPE = RECIPES / "pretrain/tiny_n512_k128.yaml"
TOKENS = 8 * 512  # of an update
SPECIAL = 5  # <s>, <pad>, </s>, <unk> come before the symbols of dict.txt, <mask> after them


def schedule(updates: int, validations: int = 10) -> dict[str, Any]:
    """Settings of a training of so many updates that validates and saves so often."""
    every = max(1, updates // validations)
    return {
        "optimization.max_update": updates,
        "lr_scheduler.total_num_update": updates,
        "lr_scheduler.warmup_updates": max(1, updates // 10),
        "dataset.validate_interval_updates": every,
        "checkpoint.save_interval_updates": every,
    }


def longer(tokens: int) -> dict[str, Any]:
    """Settings for inputs of so many tokens, with as many tokens in an update."""
    return {"task.tokens_per_sample": tokens, "dataset.batch_size": max(1, TOKENS // tokens)}


Metrics = list[dict[str, Any]]


def train(
    data: Path, run: Path, settings: Mapping[str, Any], label: str, start: Path | None = None, recipe: Path = RECIPE
) -> Metrics:
    """Train with these changes to a recipe, or resume; the lines of RUN/checkpoints/metrics.jsonl.

    The parameters are those of the checkpoint `start`, if there is one. `label` is the text of the progress line.
    """
    argv = fairseq_train_argv(recipe, data, run / "checkpoints", settings)
    if start is not None and not (run / "checkpoints/checkpoint_last.pt").exists():
        argv += ["--restore-file", str(start)]
    run_logged(argv, run / "train.log", range(settings["optimization.max_update"]), label)
    return read_metrics(run / "checkpoints")


def curve(metrics: Metrics) -> list[tuple[int, float]]:
    """Updates and validation perplexities."""
    return [(line["update"], line["perplexity"]) for line in metrics if line["split"] == "valid"]


def perplexity(data: Path, checkpoint: Path, length: int, log: Path) -> float:
    """Perplexity of the masked tokens of the validation set, in blocks of `length` tokens."""
    log.unlink(missing_ok=True)
    argv = ["fairseq-validate", str(data), "--user-dir", str(USER_DIR), "--task", "masked_lm", "--path"]
    argv += [str(checkpoint), "--batch-size", str(max(1, TOKENS // length)), "--required-batch-size-multiple", "1"]
    argv += ["--model-overrides", repr({"tokens_per_sample": length, "data": str(data)}), "--log-format", "json"]
    run_logged(argv, log)
    found = [figures["ppl"] for line in log.read_text().splitlines() if (figures := parse_line(line))]
    return float(found[-1])


def with_symbols(data: Path, symbols: int, folder: Path) -> Path:
    """A folder with the text of `data` by links, and a dictionary with which models have at least `symbols` symbols.

    So a model has the embeddings and the head that it would have in earnest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in data.iterdir():
        link = folder / file.name
        if file.suffix in (".bin", ".idx") and not link.exists():
            link.symlink_to(file.resolve())
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    lines += [f"madeupword{number:06d} 0" for number in range(symbols - SPECIAL - len(lines))]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def students(given: Sequence[str], original: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    """Names and models of --student NAME=FILE; UsageError for one that reads other ids than `original`."""
    for word in given:
        name, _, file = word.partition("=")
        if not (name and file) or "/" in name:
            raise UsageError(f"--student {word}: must be NAME=FILE, such as distilled=student.pt")
        student = read(Path(file))
        if encoder_config(student).vocab_size != encoder_config(original).vocab_size:
            raise UsageError(f"--student {word}: has another vocabulary than the original")
        yield name, student
