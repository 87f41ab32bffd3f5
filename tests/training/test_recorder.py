"""The figures of real trainings: they are fairseq's, they go on after a restart, and rank 0 alone writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from omegaconf import OmegaConf

from linformer_fairseq.compat import precision
from linformer_fairseq.reporting.runs import Run
from linformer_fairseq.training import hooks
from linformer_fairseq.training.metrics import read_metrics

USER_DIR = Path(__file__).resolve().parents[2] / "linformer_fairseq"


def logged(output: str) -> dict[int, dict[str, float]]:
    """fairseq's own figures of each update, as it prints them."""
    found = [json.loads(text) for text in re.findall(r"\| train_inner \| (\{.*\})", output)]
    return {int(line["num_updates"]): {key: float(value) for key, value in line.items()} for line in found}


@pytest.mark.slow
def test_figures_of_a_training_that_goes_on_from_an_older_checkpoint(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    command = [word for word in train_command(tmp_path, "--save-interval-updates", 3) if word != "--disable-validation"]
    first = logged(finish([*command, "--max-update", "5"]))
    older = tmp_path / "checkpoint_1_3.pt"
    second = logged(finish([*command, "--max-update", "6", "--restore-file", str(older)]))
    lines = read_metrics(tmp_path)

    assert [(line["split"], line["update"], line["start"]) for line in lines] == [
        *[("train", 1, 1), ("train", 2, 1), ("train", 3, 1), ("valid", 3, 1)],
        *[("train", 4, 2), ("train", 5, 2), ("train", 6, 2), ("valid", 6, 2)],
    ]
    printed = {**first, **second}
    tokens = 0
    for line in lines:
        if line["split"] == "train":
            own = printed[line["update"]]
            tokens += int(own["wpb"])
            assert line["loss"] == pytest.approx(own["loss"], abs=6e-4)
            assert line["gradient_norm"] == pytest.approx(own["gnorm"], abs=6e-4)
            assert line["lr"] == own["lr"] and line["loss_scale"] is None and line["joules"] is None
            assert line["tokens_per_second"] > 0 and line["flops_per_second"] > 0
            assert line["hardware_share"] is None or line["hardware_share"] > 0
            assert line["memory_bytes"] > 2**27  # PyTorch alone takes more
        assert line["tokens"] == tokens
        assert line["loss_unit"] == "bits per masked token"
        assert line["perplexity"] == pytest.approx(2 ** line["loss"])
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 7 + 4  # 4 and 5 were done twice

    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [start["updates_before"] for start in starts] == [0, 3]
    assert starts[1]["settings_changed"]["optimization.max_update"] == [5, 6]
    assert "projected_length: '16'" in (tmp_path / "run" / "config.yaml").read_text()
    assert starts[0]["command"][0].endswith("fairseq-train")

    ends = Run(tmp_path).ends()
    assert list(ends) == [1, 2] and all(end.startswith("done training in") for end in ends.values())
    log = tmp_path / "run/logs/rank-0.log"
    log.write_text(log.read_text().replace("done training", "…", 1))  # as if the first had been killed
    assert list(Run(tmp_path).ends()) == [2]


@pytest.mark.slow
def test_two_processes_and_a_model_that_is_not_ours(
    run_fairseq: Callable[..., CompletedProcess[str]], tiny_data: Path, srun: Any, tmp_path: Path
) -> None:
    """One file for all processes, with the tokens of all; a log for each; no FLOP/s of a model we do not know."""
    launcher, environment = srun
    output = run_fairseq(
        *(*launcher, "fairseq-train", tiny_data, "--user-dir", USER_DIR),
        *("--task", "masked_lm", "--criterion", "masked_lm"),
        *("--arch", "roberta", "--encoder-layers", 1, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64),
        *("--encoder-attention-heads", 2, "--tokens-per-sample", 64, "--max-positions", 64, "--batch-size", 4, "--cpu"),
        *("--optimizer", "adam", "--lr-scheduler", "fixed", "--lr", "1e-3"),
        *("--update-freq", 2, "--log-format", "json", "--log-interval", 2, "--max-update", 4, "--disable-validation"),
        *("--sample-break-mode", "complete", "--save-dir", tmp_path),
        env=environment,
    ).stdout
    printed = logged(output)
    lines = read_metrics(tmp_path)
    assert [line["update"] for line in lines] == [2, 4]
    assert [line["tokens"] for line in lines] == [2 * printed[2]["wpb"], 2 * printed[2]["wpb"] + 2 * printed[4]["wpb"]]
    assert all(line["flops_per_second"] is None and line["hardware_share"] is None for line in lines)

    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert all("begin training epoch 1" in log and '"num_updates": "4"' in log for log in logs)
    assert output.count("begin training epoch 1") == 1  # as without the logs


def test_no_save_leaves_nothing_behind(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    finish(train_command(tmp_path / "run", "--no-save", "--max-update", 1))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, "fp32"), ({"amp": True}, "bf16"), ({"bf16": True}, "bf16"), ({"fp16": True}, "fp16")],
)
def test_precision_of_the_matrix_products_on_a_cpu(flags: dict[str, bool], expected: str) -> None:
    common = {"cpu": True, "tpu": False, "amp": False, "bf16": False, "fp16": False, **flags}
    assert precision.of_matrix_products(OmegaConf.create({"common": common})) == expected


def test_bars_outside_a_training_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of fairseq-validate."""
    from fairseq.logging import progress_bar

    monkeypatch.setattr(hooks, "_latest", [])
    bar: Any = progress_bar.progress_bar([1, 2], log_format="none", log_interval=1)
    assert type(bar) is progress_bar.NoopProgressBar and list(bar) == [1, 2]
