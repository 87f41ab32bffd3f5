"""YAML files of settings: read as OmegaConf reads them, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.settings import read_yaml


def test_values_are_those_of_omegaconf(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1e-3}\nc: *a\nd: ${a.b}\n")
    assert read_yaml(path) == {"a": {"b": 0.001}, "c": {"b": 0.001}, "d": 0.001}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        ("[" * 5000, "cannot be read as YAML"),
        ("a: &a [*a]", "aliases stand for more than"),
        (
            "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 10}]" for n in range(1, 9))]),
            "aliases stand for",
        ),
        ("a: !!python/object/apply:eval ['1']", "could not determine a constructor"),
        ("a: [", "cannot be read as YAML"),
    ],
    ids=["empty", "nested", "itself", "bomb", "object", "cut"],
)
def test_what_cannot_be_settings_is_refused(content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=why):
        read_yaml(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)
