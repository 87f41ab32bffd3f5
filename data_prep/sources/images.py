"""Images: files, also in tar archives, and the rows of Parquet or Arrow files, as Hugging Face's data sets keep them.

A document is an image. Its text is a line of six hexadecimal digits for each pixel, row by row, of the largest square
in the middle, resized; `palette.py` makes tokens of them. Its title is its label: its row's, or the name of its folder.
"""

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.corpus import Document
from data_prep.sources import Piece, ReadErrors, tables
from data_prep.sources.files import LARGEST_DOCUMENT, READ_ERRORS, TARS, files_in, kind, stem, whole
from data_prep.sources.jsonl import row_document

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow reads many more, some of them by old code
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}) | TARS
SUFFIXES = IMAGES | tables.SUFFIXES
_Found = tuple[str, str, Any, bytes]  # where it is, its name, its label, its content


def pieces(path: Path, **_: Any) -> list[Piece]:
    """The parts of a table, or all of another file."""
    return tables.pieces(path) if kind(path.name) in tables.SUFFIXES else whole(path)


def documents(
    piece: Piece, problems: ReadErrors, size: int = 32, image_column: str | None = None, label_column: str | None = None
) -> Iterator[Document]:
    """The images of a piece, of `size` x `size` pixels; one that Pillow refuses, also as too large, is reported.

    In a table, an image is the bytes in a column, or in its field `bytes`: in `image_column`, by default `image`, or
    else the only such column. The label is what `label_column` has, by default `label` if there is one.
    """
    is_table = kind(piece.path.name) in tables.SUFFIXES
    images = _rows(piece, problems, image_column, label_column) if is_table else _files(piece, problems)
    for where, name, label, content in images:
        try:
            yield row_document("images", name, tables.as_text(label), pixels(content, size).hex())
        except ValueError as error:
            problems.report(where, str(error))


def pixels(content: bytes, size: int) -> bytes:
    """Red, green and blue of each pixel of a file's content, (size² * 3,); ValueError for what is no image."""
    try:
        if len(content) > LARGEST_DOCUMENT:
            raise ValueError(f"larger than {LARGEST_DOCUMENT >> 20} MB")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = ImageOps.exif_transpose(Image.open(BytesIO(content), formats=FORMATS))
            if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            square = ImageOps.fit(image.convert("RGBA"), (size, size))
        return Image.alpha_composite(Image.new("RGBA", (size, size), "white"), square).convert("RGB").tobytes()
    except UnidentifiedImageError:
        raise ValueError(f"no image of a kind that is read ({', '.join(FORMATS)})") from None
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise ValueError(f"no image that can be read ({' '.join(str(error).split())})") from error


def _files(piece: Piece, problems: ReadErrors) -> Iterator[_Found]:
    for where, _, file in files_in(piece, IMAGES, problems):
        path = PurePath(where.rpartition(":")[2] if kind(piece.path.name) in TARS else where)
        label = path.parent.name
        try:
            content = file.read(LARGEST_DOCUMENT + 1)
        except READ_ERRORS as error:
            problems.report(where, f"cannot be read ({error})")
        else:
            yield where, f"{label}/{stem(path.name)}".lstrip("/"), label, content


def _rows(piece: Piece, problems: ReadErrors, image: str | None, label: str | None) -> Iterator[_Found]:
    def columns(schema: pa.Schema) -> list[str | None] | None:
        found = {name.removesuffix(".bytes"): name for name, type_ in tables.fields(schema) if tables.is_binary(type_)}
        chosen = image or ("image" if "image" in found or len(found) != 1 else next(iter(found)))
        if chosen not in found or (label is not None and label not in schema.names):
            return None
        return [found[chosen], label or ("label" if "label" in schema.names else None)]

    wrong = f"no column {image or 'image'!r} of images{f' and {label!r} of labels' if label else ''}"
    wrong += "; choose with --image-column and --label-column"
    for where, name, (content, value) in tables.rows(piece, problems, columns, wrong):
        if content is None:
            problems.left_out["rows without an image"] += 1
        else:
            yield where, name, value, content
