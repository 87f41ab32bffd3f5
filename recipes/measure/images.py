"""Classification of images by Linformer and exact attention, beside a linear model and a convolutional net.

    OMP_NUM_THREADS=1 python recipes/measure/images.py --out RUN

Two sets, of which nothing is downloaded: scikit-learn's digits, 8 x 8 pixels and so 64 tokens each, and letters and
figures of the fonts that matplotlib brings, drawn here in random colours, turned and with noise. The model of the
recipe `tiny_n1027_k128_images` fills in masked pixels of all images but the test's; then it learns the labels of some,
whole, or frozen under a logistic regression. The convolutional net has about as many parameters. Images/s are of random
weights.
"""

import json
import os
import string
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as functional
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from data_prep.config import ReadingConfig, SourceConfig
from data_prep.extract import extract
from data_prep.palette import pixels_of
from data_prep.run import run
from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.commands import encode, finetune
from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.measuring.study import Cells, Measurement, Options, comparison, flag, plain, seconds
from linformer_fairseq.measuring.trainings import curve, schedule, train
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.tables import read_table

RECIPE = RECIPES / "pretrain/tiny_n1027_k128_images.yaml"
ATTENTIONS = {"Linformer": "linformer", "exact attention": "exact"}
SYMBOLS = string.ascii_uppercase + string.digits
FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSerif DejaVuSerif-Bold STIXGeneral cmr10 cmtt10"
)
INK, PAPER = (0, 120), (140, 256)
ACCURACY, PARTS = "accuracy, %", ("labelled", "test")
Images = npt.NDArray[np.uint8]


def measure(options: Options, cells: Cells) -> None:
    torch.set_num_threads(options.threads)
    sizes = f"{options.side} x {options.side}"
    cells.turns({f"{sizes}, {title}": partial(speed, options, at) for title, at in ATTENTIONS.items()}, options.rounds)
    for name in options.sets:
        its = ImageSet(options, options.out / name, *((8, 2) if name == "digits" else (options.pixels, 1)))
        prepare(its, *SETS[name])
        work: dict[str, Callable[[], Mapping[str, float]]] = {}
        for title, attention in ATTENTIONS.items():
            work[f"{name}, {title}, pretraining"] = partial(pretrain, its, attention)
            work[f"{name}, {title}, pretrained"] = partial(tune, its, attention)
            work[f"{name}, {title}, from scratch"] = partial(tune, its, attention, "--from-scratch")
            work[f"{name}, {title}, frozen"] = partial(probe, its, attention)
        work[f"{name}, linear model of pixels"] = partial(linear, its)
        work[f"{name}, convolutional net"] = partial(convolutional, its)
        cells.run({cell: partial(with_seconds, one) for cell, one in work.items()})


def with_seconds(work: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    before = sum(os.times()[:4])
    return {**work(), "processor seconds": sum(os.times()[:4]) - before}


def digits(options: Options) -> tuple[Images, npt.NDArray[Any]]:
    """(R, 8, 8, 3) and (R,)"""
    found = load_digits()
    return np.rint(found.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, -1), found.target


def glyphs(options: Options) -> tuple[Images, npt.NDArray[Any]]:
    """(R, side, side, 3) and (R,): dark letters and figures on light paper."""
    chance, side = np.random.default_rng(0), options.pixels
    folder, shape = Path(matplotlib.get_data_path(), "fonts/ttf"), (side, side)
    fonts = [ImageFont.truetype(folder / f"{name}.ttf", 11 * side // 16) for name in FONTS.split()]
    labels, images = chance.integers(len(SYMBOLS), size=options.glyphs + options.test), []
    for label in labels:
        glyph = Image.new("L", shape)
        font = fonts[chance.integers(len(fonts))]
        ImageDraw.Draw(glyph).text((side / 2, side / 2), SYMBOLS[label], 255, font, anchor="mm")
        glyph = glyph.rotate(chance.uniform(-15, 15), translate=tuple(chance.integers(-1, 2, size=2).tolist()))
        ink, paper = (Image.new("RGB", shape, tuple(chance.integers(*of, size=3).tolist())) for of in (INK, PAPER))
        noisy = np.asarray(Image.composite(ink, paper, glyph), np.float64) + chance.normal(0, 12, (*shape, 3))
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.stack(images), np.array([*SYMBOLS])[labels]


SETS = {"digits": (digits, "tokenizer.grey_levels=17"), "glyphs": (glyphs, "tokenizer.colours=64")}


class ImageSet(NamedTuple):
    """A set of images."""

    options: Options
    folder: Path
    side: int  # pixels
    times: int  # the epochs of --epochs

    def checkpoint(self, attention: str) -> Path:
        return self.folder / attention / "checkpoints/checkpoint_last.pt"


def prepare(its: ImageSet, make: Callable[[Options], tuple[Images, npt.NDArray[Any]]], palette: str) -> None:
    """Make the folder, once: `run`, of all images but the test's, and the corpora `labelled` and `test`."""
    folder, options = its.folder, its.options
    if (folder / "run/report.md").exists():
        return
    images, labels = make(options)
    order = np.random.default_rng(1).permutation(len(images))
    test, rest = order[: options.test], order[options.test :]
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("test", test), ("labelled", rest[: options.labelled]), ("all", rest)):
        content = []
        for i in rows:
            Image.fromarray(images[i]).save(png := BytesIO(), "PNG")
            content.append({"image": {"bytes": png.getvalue(), "path": None}, "label": str(labels[i])})
        pq.write_table(pa.Table.from_pylist(content), folder / f"{part}.parquet")
        if part != "all":
            source = SourceConfig("images", [str(folder / f"{part}.parquet")], size=its.side)
            extract(source, folder / part, ReadingConfig())
    changes = [f"input={folder / 'all.parquet'}", f"sources.0.size={its.side}", "split.valid=0.05"]
    run("images", [*changes, "tokenizer.colours=0", palette], folder / "run")


def pretrain(its: ImageSet, attention: str) -> dict[str, float]:
    """Train on masked pixels."""
    tokens, options, folder = its.side**2 + 3, its.options, its.folder / attention
    settings = schedule(options.updates, 4) | {"task.tokens_per_sample": tokens, "model.max_positions": tokens}
    settings |= {"dataset.batch_size": max(1, 4096 // tokens), "model.position_grid": its.side}
    settings |= {"model.projected_length": str(min(options.k, tokens)), "model.attention": attention}
    metrics = train(its.folder / "run/data", folder, settings, f"{its.folder.name}, {attention}", recipe=RECIPE)
    size = sum(value.numel() for value in read(its.checkpoint(attention)).state.values())
    return {"perplexity": curve(metrics)[-1][1], "parameters": size}


def tune(its: ImageSet, attention: str, *more: str) -> dict[str, float]:
    """Accuracy of fine-tuning; a tenth of the labelled images chooses the epoch."""
    out, epochs = its.folder / attention / f"tuned{''.join(more)}", its.options.epochs * its.times
    words = ["train", "--checkpoint", str(its.checkpoint(attention)), "--label-column", "title"]
    words += ["--train", f"{its.folder}/labelled", "--test", f"{its.folder}/test", "--epochs", f"{epochs}"]
    finetune.main([*words, "--lr", "1e-3", "--batch-size", "16", "--out", str(out), *more])
    return {ACCURACY: json.loads((out / "result.json").read_text(encoding="utf-8"))["scores"]["test"]["accuracy"]}


def probe(its: ImageSet, attention: str) -> dict[str, float]:
    """Accuracy of a logistic regression of the mean of the last layer."""
    vectors, labels = {}, {}
    for part in PARTS:
        out = its.folder / attention / f"{part}.parquet"
        words = ["--input", f"{its.folder / part}", "--keep-columns", "title", "--threads", f"{its.options.threads}"]
        encode.main(["--checkpoint", str(its.checkpoint(attention)), *words, "--out", str(out)])
        found = pq.read_table(out)
        vectors[part], labels[part] = np.stack(found["vector"].to_numpy()), found["title"].to_pylist()
    return regression(vectors, labels)


def regression(features: Mapping[str, npt.NDArray[Any]], labels: Mapping[str, Any]) -> dict[str, float]:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(features["labelled"], labels["labelled"])
    return {ACCURACY: 100 * float(model.score(features["test"], labels["test"]))}


def pixels_and_labels(its: ImageSet) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, list[str]]]:
    """Pixels between 0 and 1 (R, side², 3) and labels, of the corpora `labelled` and `test`."""
    tables = {part: read_table(its.folder / part, ["text"], "title") for part in PARTS}
    pixels = {part: pixels_of([text for (text,) in table.texts], its.side) for part, table in tables.items()}
    found = {part: (values / 255).astype(np.float32) for part, values in pixels.items()}
    return found, {part: table.labels or [] for part, table in tables.items()}


def linear(its: ImageSet) -> dict[str, float]:
    pixels, labels = pixels_and_labels(its)
    return regression({part: x.reshape(len(x), -1) for part, x in pixels.items()}, labels)


def convolutional(its: ImageSet) -> dict[str, float]:
    """Accuracy of three convolutions with batch norms and a mean over the image."""
    torch.manual_seed(0)
    pixels, labels = pixels_and_labels(its)
    shape = -1, its.side, its.side, 3
    x = {part: torch.from_numpy(v).view(shape).permute(0, 3, 1, 2) - 0.5 for part, v in pixels.items()}
    classes = sorted(set(labels["labelled"]))
    y = torch.tensor([classes.index(label) for label in labels["labelled"]])
    widths, layers = (3, 64, 128, 256), list[nn.Module]()
    for before, width in pairwise(widths):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < widths[-1] else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], len(classes)))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(4 * its.options.epochs * its.times):
        for rows in torch.split(torch.randperm(len(y)), 32):
            optimizer.zero_grad()
            loss: Any = functional.cross_entropy(net(x["labelled"][rows]), y[rows])
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.inference_mode():
        found = torch.cat([net(some).argmax(-1) for some in torch.split(x["test"], 64)]).tolist()
    right = [classes[i] == label for i, label in zip(found, labels["test"], strict=True)]
    return {ACCURACY: 100 * float(np.mean(right)), "parameters": sum(p.numel() for p in net.parameters())}


def speed(options: Options, attention: str) -> dict[str, float]:
    """Images per second of the encoder alone, of which a batch of four is encoded, and trained on."""
    torch.manual_seed(0)
    n = options.side**2 + 3
    shape: Any = {"embed_dim": 128, "ffn_dim": 512, "num_heads": 4, "num_layers": 2, "position_grid": options.side}
    shape |= {"vocab_size": 576, "max_positions": n, "projected_length": min(256, n // 4)}
    model, ids = LinformerEncoder(EncoderConfig(attention=attention, **shape)), torch.randint(4, 576, (4, n))

    def encoded() -> Any:
        return model(ids)[0].square().mean()

    def rate(step: Callable[[], object]) -> float:
        step()
        return len(ids) / seconds(step)

    trained = rate(lambda: encoded().backward())
    model.eval()
    return {"images/s, encoding": rate(torch.inference_mode()(encoded)), "images/s, training": trained}


ABOUT = """One seed. Models: 2 layers of 128 channels, positions of rows and columns, and a convolution over 9 tokens
beside attention. Perplexity is of 15 % masked pixels of validation images; accuracy of images that no training has
seen. Images/s: of the encoder alone, k = 256, without the convolution."""
FLAGS = [
    flag("--sets", [*SETS], choices=[*SETS], quick=["digits"], cells=True),
    flag("--glyphs", 3000, "to pretrain on", quick=40),
    flag("--pixels", 16, "a side of a glyph", quick=4),
    flag("--labelled", 1000, "images of each set with a label", quick=150),
    flag("--test", 500, "images of each set to test on", quick=20),
    flag("--epochs", 6, "of learning labels, twice as many of digits", quick=1),
    flag("--side", 64, "pixels of the images whose speed is measured", quick=4),
    *plain(updates=(200, 1), k=(64, 4), rounds=(3, 1), threads=1),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, comparison("Images as sequences", " ".join(ABOUT.split())))

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
