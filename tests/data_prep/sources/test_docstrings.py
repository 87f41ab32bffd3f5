"""Docstrings are found by parsing, in order, once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.docstrings import docstrings_of, documents, installed_roots, installed_versions, module_files

MODULE = '''"""What this whole module is about,
said in two lines that are one paragraph.

    Heading
    -------
A second paragraph after the heading."""
raise SystemExit("a module of a corpus must never be imported")


class Thing:
    """A class whose docstring is long enough to be kept here."""

    async def method(self):
        """An asynchronous method, which comes after its class does."""

    def short(self):
        """Return self."""


def outer():
    def inner():
        """Functions inside of functions have documentation as well."""
    if True:
        def conditional():
            """So have those that exist only under some condition."""


add_newdoc("numpy", "dot", """The product of two arrays, documented from outside.""")
print("""A string that is printed documents nothing, however long it may be.""")
'''


def nothing(_: int) -> None:
    """No progress shown."""


def test_all_docstrings_of_a_module_in_order(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    assert docstrings_of(path) == [
        "What this whole module is about, said in two lines that are one paragraph.\nHeading\n"
        "A second paragraph after the heading.",
        "A class whose docstring is long enough to be kept here.",
        "An asynchronous method, which comes after its class does.",
        "Functions inside of functions have documentation as well.",
        "So have those that exist only under some condition.",
        "The product of two arrays, documented from outside.",
    ]


@pytest.mark.parametrize(
    "source",
    [b'def broken(:\n    """Code for another version of Python, or a template."""', b'"""nul \0 byte"""', b"x = 1"],
)
def test_files_that_are_no_python_hold_no_docstrings(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "module.py"
    path.write_bytes(source)
    assert docstrings_of(path) == []


def test_lone_surrogates_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Half of an emoji, \\ud83d, cannot be written to any file as UTF-8."""')
    (text,) = docstrings_of(path)
    assert text.encode() == b"Half of an emoji, , cannot be written to any file as UTF-8."


def test_tests_and_other_installations_are_left_out(tmp_path: Path) -> None:
    for name in ("pkg/a.py", "pkg/tests/b.py", "test/c.py", "lib/site-packages/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert module_files(tmp_path) == [tmp_path / "pkg/a.py"]


def test_a_root_inside_such_a_folder_is_read(tmp_path: Path) -> None:
    root = tmp_path / "site-packages"
    root.mkdir()
    (root / "a.py").touch()
    assert module_files(root) == [root / "a.py"]


def test_a_repeated_docstring_is_kept_once(tmp_path: Path) -> None:
    same, other = "The same sentence stands in both of these modules.", "This one stands only in the second module."
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text(f'"""{same}"""\ndef f():\n    """{same}"""\n')
    (tmp_path / "pkg/b.py").write_text(f'"""{same}"""\ndef f():\n    """{other}"""\n')
    (tmp_path / "pkg/c.py").write_text(f'"""{same}"""\n')
    modules = [(tmp_path, path) for path in module_files(tmp_path)]
    for workers in (1, 2):
        found = [(document.id, document.text) for document in documents(modules, workers, nothing)]
        assert found == [("pkg", same), ("pkg.b", other)]


def test_this_installation_is_found() -> None:
    assert any(root.joinpath("json/__init__.py").exists() for root in installed_roots())
    assert any(root.joinpath("sentencepiece/__init__.py").exists() for root in installed_roots())
    names = {version.partition("==")[0].lower().replace("_", "-") for version in installed_versions()}
    assert "ve-fairseq" in names
