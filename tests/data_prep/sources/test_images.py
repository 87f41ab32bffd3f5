"""Images of every kind of input become squares of pixels with their labels; those that cannot be read are named."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.config import ReadingConfig, SourceConfig
from data_prep.corpus import corpus_files, read_file
from data_prep.extract import extract
from data_prep.sources import images
from linformer_fairseq.errors import UsageError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(colour: Any, size: tuple[int, int] = (6, 6), kind: str = "PNG", mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, kind)
    return content.getvalue()


def colour_of(content: bytes) -> list[int]:
    """That of all pixels."""
    (colour,) = {tuple(pixel) for pixel in np.frombuffer(images.pixels(content, 4), np.uint8).reshape(16, 3).tolist()}
    return [*colour]


def read(*inputs: Path, out: Path, on_error: str = "stop", **settings: Any) -> list[tuple[str, str, str]]:
    extract(SourceConfig("images", [*map(str, inputs)], **settings), out, ReadingConfig(on_error))
    return [(d.id, d.title, d.text) for path in corpus_files(out) for d in read_file(path)]


def text(colour: tuple[int, int, int], pixels: int) -> str:
    return bytes(colour).hex() * pixels


def test_files_have_the_label_of_their_folder_also_in_an_archive(tmp_path: Path) -> None:
    files = {"red/1.png": encoded(RED), "red/2.bmp": encoded(RED, kind="BMP"), "green/1.PNG": encoded(GREEN)}
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name, content in files.items():
            path = tmp_path / "all" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            archive.add(path, name)
    expected = [("green/1", "green", text(GREEN, 9)), ("red/1", "red", text(RED, 9)), ("red/2", "red", text(RED, 9))]
    for name in ("all", "all.tar"):
        assert sorted(read(tmp_path / name, out=tmp_path / f"{name}-corpus", size=3)) == expected


@pytest.mark.parametrize(
    ("column", "type_", "settings"),
    [
        ("image", None, {}),
        ("img", None, {}),
        ("image", pa.binary(), {}),
        ("image", pa.large_binary(), {}),
        ("picture", pa.binary(), {"image_column": "picture", "label_column": "label"}),
    ],
)
def test_rows_of_a_table(tmp_path: Path, column: str, type_: pa.DataType | None, settings: dict[str, str]) -> None:
    contents = [encoded(RED), None, encoded(BLUE)]
    values = contents if type_ else [{"bytes": content, "path": "x.png"} for content in contents]
    table = pa.table({column: pa.array(values, type_), "label": [7, 8, 9], "other": [b"", b"", b""]})
    if not settings:
        table = table.drop_columns("other")
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", out=tmp_path / "out", size=2, **settings)
    assert found == [("a:0:0", "7", text(RED, 4)), ("a:0:2", "9", text(BLUE, 4))]


def test_a_table_without_images_or_such_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [b"x"], "b": [b"y"], "text": ["z"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"no column 'image' of images; choose with --image-column .*: a \(binary\)"):
        read(tmp_path / "a.parquet", out=tmp_path / "out")
    with pytest.raises(UsageError, match="no column 'a' of images and 'c' of labels; choose with"):
        read(tmp_path / "a.parquet", out=tmp_path / "out2", image_column="a", label_column="c")


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (encoded(RED, kind="JPEG"), [254, 0, 0]),
        (encoded(RED, kind="GIF"), [255, 0, 0]),
        (encoded(RED, kind="WEBP"), [255, 0, 0]),
        (encoded((0, 0, 255, 0), mode="RGBA"), [255, 255, 255]),  # transparent
        (encoded((0, 255), mode="LA"), [0, 0, 0]),
        (encoded(1, mode="1"), [255, 255, 255]),
        (encoded(0x8123, mode="I;16"), [0x81] * 3),
    ],
)
def test_every_mode_is_red_green_and_blue(content: bytes, colour: list[int]) -> None:
    assert np.abs(np.subtract(colour_of(content), colour)).max() <= 8  # of a lossy kind


def test_the_square_in_the_middle_is_kept_upright() -> None:
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = [[GREEN, BLUE], [RED, RED]]
    content = io.BytesIO()
    Image.fromarray(wide).save(content, "PNG")
    assert images.pixels(content.getvalue(), 2).hex() == bytes([*GREEN, *BLUE, *RED, *RED]).hex()
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(wide[::-1, ::-1]).save(turned, "PNG", exif=exif)
    assert images.pixels(turned.getvalue(), 2) == images.pixels(content.getvalue(), 2)


def broken_images() -> dict[str, bytes]:
    png = encoded(RED, (64, 64))
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")

    def of_size(side: int) -> bytes:
        header = b"IHDR" + side.to_bytes(4, "big") * 2 + png[24:29]
        return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]

    return {
        "empty": b"",
        "text": b"not an image",
        "short": png[:60],
        "cut": jpeg.getvalue()[:2000],
        "huge": of_size(2**30),
        "large": of_size(10_000),  # more pixels than Pillow likes, fewer than it refuses
        "tiff": encoded(RED, kind="TIFF"),  # a kind that is not read
    }


@pytest.mark.parametrize(("name", "content"), broken_images().items())
def test_a_broken_image_is_named_and_costs_only_itself(tmp_path: Path, name: str, content: bytes) -> None:
    rows = [{"bytes": one, "path": None} for one in (encoded(RED), content, encoded(BLUE))]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: row group 0, row 1: no image .*--on-error skip") as error:
        read(tmp_path / "a.parquet", out=tmp_path / "stop", size=1)
    assert "\n" not in str(error.value) and " 0x" not in str(error.value)  # no address of an object
    found = read(tmp_path / "a.parquet", out=tmp_path / "skip", on_error="skip", size=1)
    assert [(title, colour) for _, title, colour in found] == [("", "ff0000"), ("", "0000ff")]


def test_settings_of_images_are_for_images_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--size: --source text has no such setting; it is for images"):
        extract(SourceConfig("text", [str(tmp_path)], size=8), tmp_path / "out", ReadingConfig())
    with pytest.raises(UsageError, match="--size 0: must be at least 1"):
        SourceConfig("images", [], size=0)
