"""From raw files to updates of the real fairseq-train, on shards joined by colons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from tarfile import open as open_tar

import pytest

from data_prep.__main__ import main

ROOT = Path(__file__).parents[2]
SMALL = ["--arch", "linformer_roberta_tiny", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64"]
UPDATES = ["--optimizer", "adam", "--lr", "2e-3", "--log-format", "json", "--log-interval", "1"]
RunFairseq = Callable[..., CompletedProcess[str]]
Losses = Callable[[str], list[tuple[int, float]]]


def train(run_fairseq: RunFairseq, data: str, break_mode: str, batch: int, save_dir: Path) -> str:
    """Trains on two shards, which fairseq takes in turn, an epoch each; what it printed."""
    flags = ["--user-dir", ROOT / "linformer_fairseq", "--task", "masked_lm", "--criterion", "masked_lm", "--cpu"]
    flags += ["--tokens-per-sample", "128", "--sample-break-mode", break_mode, "--save-dir", save_dir]
    flags += ["--batch-size", batch]
    return run_fairseq("fairseq-train", data, *flags, *SMALL, *UPDATES, "--max-epoch", "2").stdout


@pytest.mark.parametrize(
    "break_mode",
    [pytest.param("none", marks=pytest.mark.slow), pytest.param("complete", marks=pytest.mark.slow), "complete_doc"],
)
def test_fairseq_trains_on_the_shards_of_a_corpus(
    splits: Path, tokenizer: Path, tmp_path: Path, run_fairseq: RunFairseq, break_mode: str
) -> None:
    out = tmp_path / "data"
    command = ["binarize", str(splits), "--tokenizer", str(tokenizer), "--out", str(out)]
    assert main([*command, "--shards", "2", "--max-item-tokens", "126"]) == 0
    output = train(run_fairseq, f"{out}/shard00:{out}/shard01", break_mode, 64, tmp_path / "run")
    for shard in ("shard00", "shard01"):
        assert f"{out}/{shard}/train" in output
    assert "end of epoch 2" in output


@pytest.mark.slow
def test_a_dump_slice_and_books_become_a_training(
    tmp_path: Path, run_fairseq: RunFairseq, parse_losses: Losses, shared_data: Callable[[str], Path]
) -> None:
    with open_tar(shared_data("text/classic-books.tar.xz")) as tar:
        tar.extractall(tmp_path, [m for m in tar if m.isfile() and "/Anna_Sewell" in m.name], filter="data")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"sources:\n- {{source: wikipedia, inputs: ['{shared_data('wiki')}/*.bz2']}}\n"
        f"- {{source: books, inputs: ['{tmp_path}/classic-books']}}\n"
        "file_characters: 2000000\nsplit: {valid: 0.05}\n"
        "tokenizer: {vocab_size: 2048}\nbinarize: {shards: 2, max_item_tokens: 126}\n"
    )
    out = tmp_path / "run"
    assert main(["run", str(config), "--out", str(out), "--workers", "2"]) == 0
    output = train(run_fairseq, f"{out}/data/shard00:{out}/data/shard01", "complete", 64, tmp_path / "save")
    losses = [loss for _, loss in parse_losses(output)]
    assert "end of epoch 2" in output and losses[-1] < losses[0] - 1
