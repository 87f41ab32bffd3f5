"""A program ends well, known warnings are gone and no others, and what NumPy has removed is back where needed."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fairseq.modules import dynamic_crf_layer

from linformer_fairseq.compat.process import quiet_root_logger, silence_known_warnings
from linformer_fairseq.paths import CLONE

AUTOCAST = "`torch.cuda.amp.autocast(args...)` is deprecated."
PIN_MEMORY = "'pin_memory' argument is set as true but no accelerator is found."
BUFFERS = "`broadcast_buffers` is deprecated and will be removed"
HYDRA = "hydra.experimental.compose() is no longer experimental. Use hydra.compose()"


@pytest.fixture
def seen() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        silence_known_warnings()
        yield caught


@pytest.mark.parametrize(
    ("message", "category", "module"),
    [
        (AUTOCAST, FutureWarning, "fairseq.tasks.fairseq_task"),
        (BUFFERS, FutureWarning, "linformer_fairseq.compat.launch"),
        (PIN_MEMORY, UserWarning, "torch.utils.data.dataloader"),
        (HYDRA, UserWarning, "fairseq.dataclass.utils"),
    ],
)
def test_a_known_warning_is_silent(
    message: str, category: type[Warning], module: str, seen: list[warnings.WarningMessage]
) -> None:
    warnings.warn_explicit(message, category, "file.py", 1, module)
    assert not seen


@pytest.mark.parametrize(
    ("message", "category", "module"),
    [
        (AUTOCAST, FutureWarning, "users_own.model"),  # their own code, so theirs to change
        (PIN_MEMORY, UserWarning, "users_own.loader"),
        ("something new is deprecated", FutureWarning, "fairseq.trainer"),
        (AUTOCAST, RuntimeWarning, "fairseq.trainer"),
    ],
)
def test_another_warning_is_seen(
    message: str, category: type[Warning], module: str, seen: list[warnings.WarningMessage]
) -> None:
    warnings.warn_explicit(message, category, "file.py", 1, module)
    assert [str(warning.message) for warning in seen] == [message]


def test_registering_the_project_does_not_make_every_library_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGLEVEL", raising=False)
    code = "import logging, sys, linformer_fairseq.plugin as p; p.register(); sys.exit(logging.root.level)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert imported.returncode == logging.WARNING and "tensorboardX" not in imported.stderr


def test_who_asks_for_debug_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "debug")
    monkeypatch.setattr(logging.root, "level", logging.DEBUG)
    quiet_root_logger()
    assert logging.root.level == logging.DEBUG


def test_the_report_on_a_machine_asks_for_nothing_that_is_not_needed() -> None:
    report = subprocess.run([sys.executable, "-m", "linformer_fairseq", "env"], capture_output=True, text=True)
    assert "fairseq" in report.stdout and "tensorboardX" not in report.stdout + report.stderr


# Eight of fairseq's loaders at work on the last line; without the repair, this dies of SIGABRT every time.
ENDS_WHILE_LOADING = """
import torch
from fairseq.data.iterators import BufferedIterator
from linformer_fairseq.plugin import register

register()

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        return torch.full((4, 8), index), torch.zeros(64)

loaders = [BufferedIterator({size}, torch.utils.data.DataLoader(Data(), batch_size=4)) for _ in range(8)]
for loader in loaders * 5:
    next(loader)
print("last line")
"""


@pytest.mark.parametrize("size", [2, 1_000_000], ids=["waiting for room", "loading"])
def test_ends_while_batches_are_loaded(size: int) -> None:
    program = [sys.executable, "-c", ENDS_WHILE_LOADING.replace("{size}", str(size))]
    ended = subprocess.run(program, cwd=CLONE, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("last line\n")


def test_a_crf_scores_its_targets() -> None:
    """It puts the targets into its beam by a score of np.float("inf")."""
    torch.manual_seed(0)
    crf = dynamic_crf_layer.DynamicCRF(num_embedding=12, low_rank=4, beam_size=6)
    likelihood = crf(torch.randn(2, 5, 12), torch.randint(12, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    assert torch.isfinite(likelihood).all() and (likelihood < 0).all()


def test_the_name_stays_unknown_elsewhere() -> None:
    assert not hasattr(np, "float")
    assert dynamic_crf_layer.np.float64 is np.float64
