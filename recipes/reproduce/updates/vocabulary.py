"""The same text with more symbols, so that a model has the embeddings and the head that it would have in earnest."""

from __future__ import annotations

from pathlib import Path

SPECIAL = 5  # <s>, <pad>, </s>, <unk> come before the symbols of dict.txt, <mask> after them


def with_symbols(data: Path, symbols: int, folder: Path) -> Path:
    """A folder with the text of `data` by links, and a dictionary of at least `symbols` symbols; made once.

    Args:
        data: folder of binarised text.
        symbols: of the model, special ones counted.
        folder: where to put it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in data.iterdir():
        link = folder / file.name
        if file.suffix in (".bin", ".idx") and not link.exists():
            link.symlink_to(file.resolve())
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    missing = max(0, symbols - SPECIAL - len(lines))
    lines += [f"madeupword{number:06d} 0" for number in range(missing)]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
