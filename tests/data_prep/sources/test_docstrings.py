"""Docstrings of Python files, read without running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources import ReadErrors
from data_prep.sources.docstrings import docstrings_of, documents, installed_roots, pieces

LONG = "A sentence that is long enough to teach something about prose."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a package, a module, tests and a template."""
    for name, text in {
        "pkg/__init__.py": f'"""{LONG} One."""\ndef f():\n    """{LONG} Two."""\n',
        "pkg/sub.py": f'"""{LONG} Two."""\nclass C:\n    """{LONG} Three,\n    wrapped.\n\n    Its end."""\n',
        "pkg/tests/test_a.py": f'"""{LONG} Test."""\n',
        "pkg/template.py": f'"""{LONG}"""\n{{% for %}}\n',
        "single.py": f'"""{LONG} Four."""\nadd_newdoc("x", "{LONG} Five.")\n"""short"""\n',
        "data/no_python.txt": LONG,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_package_is_a_piece_and_a_module_a_document(root: Path) -> None:
    found = {d.id: d.text for piece in pieces(root) for d in documents(piece, ReadErrors())}
    assert [piece.path.name for piece in pieces(root)] == ["pkg", "single.py"]
    assert found == {
        "pkg": f"{LONG} One.\n{LONG} Two.",
        "pkg.sub": f"{LONG} Three, wrapped.\nIts end.",
        "single": f"{LONG} Four.\n{LONG} Five.",
    }


def test_files_with_syntax_errors_have_none(root: Path) -> None:
    assert docstrings_of(root / "pkg/template.py") == []


def test_the_installed_packages_are_found() -> None:
    names = {piece.path.name for folder in installed_roots() for piece in pieces(folder)}
    assert {"asyncio", "numpy", "torch"} <= names
