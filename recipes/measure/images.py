"""Classification of images by Linformer and exact attention, beside a linear model and a convolutional net.

    OMP_NUM_THREADS=1 python recipes/measure/images.py --out RUN

Two sets, of which nothing is downloaded: scikit-learn's digits, 8 x 8 pixels and so 64 tokens each, and letters and
figures of the fonts that matplotlib brings, drawn here in random colours, turned and with noise. The model of the
recipe `tiny_n1027_k128_images` fills in masked pixels of all images but the test's; then it learns the labels of some,
whole, or frozen under a logistic regression. The convolutional net has about as many parameters. Images/s are of random
weights.
"""

import argparse
import json
import os
import string
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

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
from linformer_fairseq.measuring.study import Cells, Measurement, comparison
from linformer_fairseq.measuring.trainings import curve, schedule
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.tables import read_table
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.progress import run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv

RECIPE = RECIPES / "pretrain/tiny_n1027_k128_images.yaml"
ATTENTIONS = {"Linformer": "linformer", "exact attention": "exact"}
SYMBOLS = string.ascii_uppercase + string.digits
FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSerif DejaVuSerif-Bold STIXGeneral cmr10 cmtt10"
)
INK, PAPER = (0, 120), (140, 256)
ACCURACY = "accuracy, %"
Images = npt.NDArray[np.uint8]


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=[*SETS], help="default: %(default)s")
    add("--glyphs", type=int, default=3000, help="to pretrain on (default: %(default)s)")
    add("--pixels", type=int, default=16, help="a side of a glyph (default: %(default)s)")
    add("--labelled", type=int, default=1000, help="images of each set with a label (default: %(default)s)")
    add("--test", type=int, default=500, help="images of each set to test on (default: %(default)s)")
    add("--updates", type=int, default=200, help="of pretraining, of 4,096 tokens (default: %(default)s)")
    add("--epochs", type=int, default=6, help="of learning labels, twice as many of digits (default: %(default)s)")
    add("--k", type=int, default=64, help="projected length, at most (default: %(default)s)")
    add("--side", type=int, default=64, help="pixels of the images whose speed is measured (default: %(default)s)")
    add("--rounds", type=int, default=3, help="of the speeds (default: %(default)s)")
    add("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    torch.set_num_threads(options.threads)
    sizes = f"{options.side} x {options.side}"
    work: dict[str, Callable[[], Any]]
    work = {f"{sizes}, {title}": partial(speed, options, attention) for title, attention in ATTENTIONS.items()}
    cells.turns(work, options.rounds)
    for name in options.sets:
        prepare(options, name)
        work = {}
        for title, attention in ATTENTIONS.items():
            here = options, name, attention
            work[f"{name}, {title}, pretraining"] = partial(pretrain, *here)
            work[f"{name}, {title}, pretrained"] = partial(tune, *here)
            work[f"{name}, {title}, from scratch"] = partial(tune, *here, "--from-scratch")
            work[f"{name}, {title}, frozen"] = partial(probe, *here)
        work[f"{name}, linear model of pixels"] = partial(linear, options, name)
        work[f"{name}, convolutional net"] = partial(convolutional, options, name)
        cells.run({cell: partial(with_seconds, one) for cell, one in work.items()})


def with_seconds(work: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    before = sum(os.times()[:4])
    return {**work(), "processor seconds": sum(os.times()[:4]) - before}


def digits(options: argparse.Namespace) -> tuple[Images, npt.NDArray[Any]]:
    """(R, 8, 8, 3) and (R,)"""
    found = load_digits()
    return np.rint(found.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, -1), found.target


def glyphs(options: argparse.Namespace) -> tuple[Images, npt.NDArray[Any]]:
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


def side_of(options: argparse.Namespace, name: str) -> int:
    return 8 if name == "digits" else int(options.pixels)


def epochs_of(options: argparse.Namespace, name: str) -> int:
    return int(options.epochs) * (2 if name == "digits" else 1)


def prepare(options: argparse.Namespace, name: str) -> None:
    """Make OUT/NAME, once: `run`, of all images but the test's, and the corpora `labelled` and `test`."""
    folder: Path = options.out / name
    make, palette = SETS[name]
    side = side_of(options, name)
    if (folder / "run/report.md").exists():
        return
    images, labels = make(options)
    order = np.random.default_rng(1).permutation(len(images))
    test, rest = order[: options.test], order[options.test :]
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("test", test), ("labelled", rest[: options.labelled]), ("all", rest)):
        content = [{"image": {"bytes": _png(images[i]), "path": None}, "label": str(labels[i])} for i in rows]
        pq.write_table(pa.Table.from_pylist(content), folder / f"{part}.parquet")
        if part != "all":
            source = SourceConfig("images", [str(folder / f"{part}.parquet")], size=side)
            extract(source, folder / part, ReadingConfig())
    changes = [f"input={folder / 'all.parquet'}", f"sources.0.size={side}", "split.valid=0.05"]
    run("images", [*changes, "tokenizer.colours=0", palette], folder / "run")


def _png(image: Images) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def pretrain(options: argparse.Namespace, name: str, attention: str) -> dict[str, float]:
    """Train on masked pixels."""
    folder, side = options.out / name, side_of(options, name)
    tokens = side**2 + 3
    settings = schedule(options.updates, 4) | {"task.tokens_per_sample": tokens, "model.max_positions": tokens}
    settings |= {"dataset.batch_size": max(1, 4096 // tokens), "model.position_grid": side}
    settings |= {"model.projected_length": str(min(options.k, tokens)), "model.attention": attention}
    argv = fairseq_train_argv(RECIPE, folder / "run/data", folder / attention / "checkpoints", settings)
    run_logged(argv, folder / attention / "train.log", range(options.updates), f"{name}, {attention}")
    size = sum(value.numel() for value in read(_checkpoint(options, name, attention)).state.values())
    return {"perplexity": curve(read_metrics(folder / attention / "checkpoints"))[-1][1], "parameters": size}


def _checkpoint(options: argparse.Namespace, name: str, attention: str) -> Path:
    return Path(options.out, name, attention, "checkpoints/checkpoint_last.pt")


def tune(options: argparse.Namespace, name: str, attention: str, *more: str) -> dict[str, float]:
    """Accuracy of fine-tuning; a tenth of the labelled images chooses the epoch."""
    folder = options.out / name
    out = folder / attention / f"tuned{''.join(more)}"
    words = ["train", "--checkpoint", str(_checkpoint(options, name, attention)), "--label-column", "title"]
    words += ["--train", f"{folder}/labelled", "--test", f"{folder}/test", "--epochs", f"{epochs_of(options, name)}"]
    finetune.main([*words, "--lr", "1e-3", "--batch-size", "16", "--out", str(out), *more])
    return {ACCURACY: json.loads((out / "result.json").read_text(encoding="utf-8"))["scores"]["test"]["accuracy"]}


def probe(options: argparse.Namespace, name: str, attention: str) -> dict[str, float]:
    """Accuracy of a logistic regression of the mean of the last layer."""
    vectors, labels = {}, {}
    for part in ("labelled", "test"):
        out = options.out / name / attention / f"{part}.parquet"
        words = ["--input", f"{options.out / name / part}", "--keep-columns", "title"]
        words += ["--threads", f"{options.threads}"]
        encode.main(["--checkpoint", str(_checkpoint(options, name, attention)), *words, "--out", str(out)])
        found = pq.read_table(out)
        vectors[part], labels[part] = np.stack(found["vector"].to_numpy()), found["title"].to_pylist()
    return {ACCURACY: _regression(vectors, labels)}


def _regression(features: Mapping[str, npt.NDArray[Any]], labels: Mapping[str, Any]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(features["labelled"], labels["labelled"])
    return 100 * float(model.score(features["test"], labels["test"]))


def pixels_and_labels(folder: Path, side: int) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, list[str]]]:
    """Pixels between 0 and 1 (R, side², 3) and labels, of the corpora `labelled` and `test`."""
    tables = {part: read_table(folder / part, ["text"], "title") for part in ("labelled", "test")}
    pixels = {part: pixels_of([text for (text,) in table.texts], side) for part, table in tables.items()}
    found = {part: (values / 255).astype(np.float32) for part, values in pixels.items()}
    return found, {part: table.labels or [] for part, table in tables.items()}


def linear(options: argparse.Namespace, name: str) -> dict[str, float]:
    pixels, labels = pixels_and_labels(options.out / name, side_of(options, name))
    return {ACCURACY: _regression({part: x.reshape(len(x), -1) for part, x in pixels.items()}, labels)}


def convolutional(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Accuracy of three convolutions with batch norms and a mean over the image."""
    torch.manual_seed(0)
    side = side_of(options, name)
    pixels, labels = pixels_and_labels(options.out / name, side)
    classes = sorted(set(labels["labelled"]))
    x = {part: torch.from_numpy(v).view(-1, side, side, 3).permute(0, 3, 1, 2) - 0.5 for part, v in pixels.items()}
    y = torch.tensor([classes.index(label) for label in labels["labelled"]])
    widths, layers = (3, 64, 128, 256), list[nn.Module]()
    for before, width in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < widths[-1] else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], len(classes)))
    optimizer, epochs = torch.optim.AdamW(net.parameters(), 1e-3), 4 * epochs_of(options, name)
    for _ in range(epochs):
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


def speed(options: argparse.Namespace, attention: str) -> dict[str, float]:
    """Images per second of the encoder alone, of which a batch of four is encoded, and trained on."""
    torch.manual_seed(0)
    n = options.side**2 + 3
    shape = {"embed_dim": 128, "ffn_dim": 512, "num_heads": 4, "num_layers": 2, "position_grid": options.side}
    config = EncoderConfig(
        vocab_size=576, max_positions=n, attention=attention, projected_length=min(256, n // 4), **shape
    )
    model, ids = LinformerEncoder(config), torch.randint(4, 576, (4, n))

    def encoded() -> Any:
        return model(ids)[0].square().mean()

    def rate(step: Callable[[], object]) -> float:
        step()
        start = time.perf_counter()
        step()
        return len(ids) / (time.perf_counter() - start)

    trained = rate(lambda: encoded().backward())
    model.eval()
    return {"images/s, encoding": rate(torch.inference_mode()(encoded)), "images/s, training": trained}


ABOUT = """One seed. Models: 2 layers of 128 channels, positions of rows and columns, and a convolution over 9 tokens
beside attention. Perplexity is of 15 % masked pixels of validation images; accuracy of images that no training has
seen. Images/s: of the encoder alone, k = 256, without the convolution."""
QUICK = {"glyphs": 40, "pixels": 4, "labelled": 150, "test": 20, "updates": 1, "epochs": 1, "k": 4, "side": 4}
TABLE = comparison("Images as sequences", " ".join(ABOUT.split()))
MEASUREMENT = Measurement(
    __file__, __doc__, flags, measure, TABLE, quick=QUICK | {"sets": ["digits"], "rounds": 1}, choices=("sets",)
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
