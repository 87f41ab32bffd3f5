"""The code that travels with an exported folder: two files, made of those of `layers/` and `hf/`.

transformers loads a configuration and a model, each from one file; not every version finds what these would import.
"""

import ast
from pathlib import Path

from linformer_fairseq import hf, layers

CONFIGURATION, MODEL = "configuration_linformer.py", "modeling_linformer.py"
# Each after those that it imports.
_LAYERS = ("fused", "adaptive", "window", "projection", "attention", "encoder")
_HEADER = (
    '"""{text} This file holds the files of linformer_fairseq that it needs."""\n\nfrom __future__ import annotations\n'
)


def write_code(folder: Path) -> None:
    """Write the two files."""
    encoder, around = Path(layers.__path__[0]), Path(hf.__path__[0])
    options = [encoder / "config.py", around / CONFIGURATION]
    models = [*(encoder / f"{name}.py" for name in _LAYERS), around / "encoder_linformer.py", around / MODEL]
    imported = "\nfrom .configuration_linformer import EncoderConfig, LinformerConfig\n"
    for name, text, imports, sources in (
        (CONFIGURATION, "The configuration of a Linformer.", "", options),
        (MODEL, "A Linformer for transformers.", imported, models),
    ):
        content = _HEADER.format(text=text) + imports + "".join(map(_body, sources))
        (folder / name).write_text(content, encoding="utf-8")


def _body(path: Path) -> str:
    """A module without what it imports from the others, its docstring as a comment."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    for node in tree.body:
        ours = isinstance(node, ast.ImportFrom) and (node.level > 0 or node.module == "__future__")
        if ours or node is tree.body[0]:
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
    about = (ast.get_docstring(tree) or "").splitlines()
    comment = "".join(f"# {line}".rstrip() + "\n" for line in about)
    return f"\n\n# {path.name}\n#\n{comment}{''.join(lines)}"
