"""The docstrings of the installed packages: a corpus of technical English that every machine has.

Files are parsed, never imported. One document per module: the docstrings of the module and of its classes and
functions, in the order of the file.
"""

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.sources import Piece, ReadErrors

SHORTEST = 40  # characters; "Return self." teaches nothing
_NOT_DOCUMENTATION = {"test", "tests", "site-packages", "dist-packages"}
# Modules written in C get their docstrings from calls such as numpy's add_newdoc or torch's add_docstr.
_DOCSTRING_CALLS = {"add_newdoc", "add_docstr", "add_docstr_all"}


def installed_roots() -> list[Path]:
    """The standard library and the folders of installed packages of the running Python."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys(Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")))


def pieces(path: Path) -> list[Piece]:
    """The packages and modules in one folder, each a piece."""
    entries = sorted(entry for entry in path.iterdir() if entry.suffix == ".py" or entry.is_dir())
    found = [Piece(entry, sum(file.stat().st_size for file in _files_of(entry))) for entry in entries]
    return [piece for piece in found if piece.size]


def documents(piece: Piece, problems: ReadErrors) -> Iterator[Document]:
    """One document per module that has docstrings; a docstring that occurred earlier in its package is left out."""
    seen: set[str] = set()
    for path in _files_of(piece.path):
        new = [text for text in dict.fromkeys(docstrings_of(path)) if text not in seen]
        seen.update(new)
        if new:
            module = path.relative_to(piece.path.parent).with_suffix("")
            name = ".".join(module.parts).removesuffix(".__init__")
            yield Document(name, "docstrings", name, "\n".join(new))


def _files_of(entry: Path) -> list[Path]:
    """A module, or the Python files below a folder except tests, sorted."""
    if entry.name in _NOT_DOCUMENTATION:
        return []
    if entry.is_file():
        return [entry]
    return sorted(p for p in entry.rglob("*.py") if not _NOT_DOCUMENTATION.intersection(p.relative_to(entry).parts))


def docstrings_of(path: Path) -> list[str]:
    """The docstrings of one module, in the form of a corpus, without short ones; none if the file has syntax errors."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:  # parsing is what takes time
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the escapes in other people's strings
            tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError, RecursionError):
        return []  # templates and code for other versions of Python are installed as .py, too
    texts = []
    for docstring in _docstrings(tree):
        # A line that only underlines a heading or draws a table border ends a paragraph.
        lines = (line if line.strip(" -=~^+|*#_.") else "" for line in docstring.splitlines())
        # String literals may hold lone surrogates, which UTF-8 cannot.
        texts.append(tidy(join_wrapped(lines)).encode("utf-8", "ignore").decode())
    return [text for text in texts if len(text) >= SHORTEST]


def _docstrings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        if name in _DOCSTRING_CALLS:
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield inspect.cleandoc(part.value)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)
