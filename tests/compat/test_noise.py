"""Quiet, but not deaf."""

import warnings

import pytest

from linformer_fairseq.compat.noise import silence_known_warnings


def test_the_log_of_a_training_has_no_warnings(train, tmp_path):
    for flag in ("--cpu", "--amp"):
        assert "Warning" not in train(tmp_path, "--max-update", 2, flag).succeeded().output


@pytest.mark.parametrize(
    ("message", "category", "module"),
    [
        ("`torch.cuda.amp.autocast(args...)` is deprecated", FutureWarning, "somebody.else"),
        ("`torch.cuda.amp.common(args...)` is deprecated", FutureWarning, "fairseq.trainer"),
        ("'pin_memory' argument is set as true but no accelerator", UserWarning, "somebody.else"),
        ("something else about hydra.experimental.compose()", UserWarning, "hydra.compose"),
        ("'config' is wrong", UserWarning, "sys"),
    ],
)
def test_other_warnings_come_through(message, category, module):
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        silence_known_warnings()
        warnings.warn_explicit(message, category, "file.py", 1, module=module)
    assert [str(warning.message) for warning in seen] == [message]
