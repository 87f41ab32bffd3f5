"""Known warnings are gone, and no others."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from linformer_fairseq.compat.noise import quiet_root_logger, silence_known_warnings

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
        (BUFFERS, FutureWarning, "linformer_fairseq.compat.distributed"),
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
