"""Turns checkpoints from one form into another.

    python recipes/convert.py inspect checkpoint_best.pt
    python recipes/convert.py to-hf checkpoint_best.pt my-linformer --data data-run/data
    python recipes/convert.py from-roberta roberta.base/model.pt linformer.pt --projected-length 256
    python recipes/convert.py extend checkpoint_best.pt longer.pt --max-positions 4096

No command changes what it reads, runs code that a file holds, or overwrites a target without --force.
A .pt file that was made here is loaded by fairseq's programs, and trained on from with --restore-file.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from linformer_fairseq.commands.arguments import command_parser

# It asks everybody to install a package that only speech needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from linformer_fairseq.errors import UsageError  # noqa: E402

if TYPE_CHECKING:  # --help does not wait for torch and fairseq
    from torch import Tensor

    from linformer_fairseq.checkpoints.checkpoint import Checkpoint

Command = Callable[[argparse.Namespace], None]


def main(argv: list[str] | None = None) -> int:
    """Runs one conversion; returns the exit status."""
    arguments = parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("convert", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = _command(commands, "inspect", _inspect, "say what a checkpoint is", target=None)
    inspect.add_argument("--json", action="store_true", help="for programs")

    _command(
        commands, "from-official", _from_official, "a checkpoint of fairseq's examples/linformer becomes one of ours"
    )

    roberta = _command(
        commands,
        "from-roberta",
        _from_roberta,
        "a RoBERTa, of fairseq (.pt) or Hugging Face (folder), becomes a Linformer",
    )
    roberta.add_argument("--projected-length", default="256", metavar="K", help="k, as for training (default: 256)")
    roberta.add_argument("--max-positions", type=int, metavar="N", help="longest input (default: that of the RoBERTa)")
    roberta.add_argument(
        "--projection-sharing",
        default="layerwise",
        choices=("none", "headwise", "key-value", "layerwise"),
        help="which E and F are one matrix (default: layerwise)",
    )
    roberta.add_argument(
        "--projection", default="linear", choices=("linear", "mean-pool", "max-pool", "conv"), help="default: linear"
    )
    roberta.add_argument(
        "--init",
        default="block-mean",
        choices=("block-mean", "svd", "random", "exact"),
        help="start of E and F: averages of n/k neighbours, the leading directions of the model's own attention on "
        "--sample, or N(0, 1/k); exact keeps RoBERTa's attention (default: block-mean)",
    )
    roberta.add_argument(
        "--sample", type=Path, metavar="DIR", help="binarised data: for svd and --transfer, and to say the perplexity"
    )
    roberta.add_argument(
        "--transfer",
        type=int,
        default=0,
        metavar="N",
        help="N steps of fitting each layer's output to exact attention's",
    )

    extend = _command(commands, "extend", _extend, "longer inputs, or another projected length")
    extend.add_argument("--max-positions", type=int, metavar="N", help="new longest input in tokens")
    extend.add_argument("--projected-length", metavar="K", help="new k, or one per layer")
    extend.add_argument(
        "--method",
        default="keep",
        choices=("keep", "interpolate", "tile"),
        help="keep what short inputs give (default), or interpolate or tile positions, E and F",
    )

    to_hf = _command(commands, "to-hf", _to_hf, "a folder that transformers loads with trust_remote_code=True", "DIR")
    to_hf.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of dict.txt and tokenizer (default: as trained)"
    )
    to_hf.add_argument("--head", metavar="NAME", help="classification head to export, if there are several")
    to_hf.add_argument("--labels", nargs="+", metavar="NAME", help="names of its classes, in the order of their ids")

    _command(commands, "from-hf", _from_hf, "such a folder becomes a fairseq checkpoint again")
    _command(
        commands, "to-safetensors", _to_safetensors, "one file of tensors and text, read by all commands here", "DST"
    )
    _command(commands, "from-safetensors", _from_safetensors, "such a file becomes a fairseq checkpoint again")
    return top


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    text: str,
    target: str | None = "DST.pt",
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    command.add_argument("source", type=Path, metavar="SRC", help="what is read")
    if target:
        command.add_argument("target", type=Path, metavar=target, help="what is written")
        command.add_argument("--force", action="store_true", help="replace the target if it exists")
    return command


def _inspect(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.describe import describe
    from linformer_fairseq.checkpoints.safe_file import read_any

    about = describe(read_any(a.source), a.source)
    if a.json:
        print(json.dumps(about, indent=1))
    else:
        for name, value in about.items():
            print(f"{name:22}{value:,}" if isinstance(value, int) else f"{name:22}{value}")


def _from_official(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.official import from_official

    _write(a, from_official(read(a.source)))


def _from_roberta(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.roberta import from_roberta, tokenizer_files
    from linformer_fairseq.checkpoints.transfer import transfer
    from linformer_fairseq.checkpoints.warm_start import longer, to_linformer

    exact = from_roberta(a.source)
    if a.init == "exact":
        result = longer(exact, a.max_positions)
    else:
        sample = _sample(a, exact) if a.init == "svd" or a.transfer else None
        result = to_linformer(
            exact, a.projected_length, a.max_positions, a.projection_sharing, a.projection, a.init, sample
        )
        if a.transfer and sample is not None:
            result, losses = transfer(exact, result, sample, a.transfer)
            print(f"attention transfer: relative error {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    if a.sample:
        _compare(a, exact, result)
    _write(a, result)
    if a.source.is_dir():
        tokenizer = a.target.with_suffix(".tokenizer")
        tokenizer_files(a.source, tokenizer, a.force)
        print(f"{tokenizer}: dict.txt and the tokenizer's files, for --data and `data_prep tokenizer --import`")


def _compare(a: argparse.Namespace, exact: Checkpoint, result: Checkpoint) -> None:
    """Prints what the conversion costs, before any training."""
    from linformer_fairseq.checkpoints.perplexity import masked_texts, perplexity
    from linformer_fairseq.checkpoints.warm_start import to_linformer

    split = "valid" if (a.sample / "valid.idx").is_file() else "train"
    texts = masked_texts(exact, a.sample, split)
    found = {"the RoBERTa": exact, "converted": result}
    if a.init != "exact" and a.projection in ("linear", "conv"):
        shape = (a.projected_length, a.max_positions, a.projection_sharing, a.projection)
        found["with random E and F"] = to_linformer(exact, *shape, "random")
    shown = ", ".join(f"{name} {perplexity(model, *texts):.1f}" for name, model in found.items())
    print(f"perplexity on {len(texts[0])} {split} texts of {a.sample}: {shown}")


def _sample(a: argparse.Namespace, exact: Checkpoint) -> list[Tensor]:
    """Batches of text as long as the RoBERTa reads."""
    from linformer_fairseq.checkpoints.checkpoint import encoder_config
    from linformer_fairseq.checkpoints.sample import sample_blocks

    if a.sample is None:
        raise UsageError("--init svd and --transfer look at the model's attention on text: name it with --sample")
    config = encoder_config(exact)
    blocks = sample_blocks(a.sample, config.max_positions, 8 * max(8, min(a.transfer, 64)), config.vocab_size)
    return [blocks[i : i + 8] for i in range(0, len(blocks), 8)]


def _extend(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.extend import extend
    from linformer_fairseq.checkpoints.safe_file import read_any

    if a.max_positions is None and a.projected_length is None:
        raise UsageError("nothing to do: give --max-positions, --projected-length or both")
    _write(a, extend(read_any(a.source), a.max_positions, a.projected_length, a.method))


def _to_hf(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.huggingface import to_hf
    from linformer_fairseq.checkpoints.safe_file import read_any

    checkpoint = read_any(a.source)
    data = a.data or checkpoint.data
    if not (data / "dict.txt").is_file():
        raise UsageError(f"{data / 'dict.txt'}: no such file; --data names the folder that the model was trained on")
    to_hf(checkpoint, data, a.target, a.force, a.head, a.labels)
    print(f"{a.target}: AutoModel.from_pretrained({str(a.target)!r}, trust_remote_code=True)")


def _from_hf(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.huggingface import from_hf, write_tokenizer

    _write(a, from_hf(a.source))
    tokenizer = a.target.with_suffix(".tokenizer")
    write_tokenizer(a.source, tokenizer, a.force)
    print(f"{tokenizer}: dict.txt and the tokenizer's files, for --data")


def _to_safetensors(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.checkpoints.safe_file import SUFFIX, write_safetensors

    if a.target.suffix != SUFFIX:
        raise UsageError(f"{a.target}: its name must end with {SUFFIX}, by which all commands know it")
    write_safetensors(read(a.source), a.target, a.force)
    print(f"{a.target}: written")


def _from_safetensors(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.safe_file import read_safetensors

    _write(a, read_safetensors(a.source))


def _write(a: argparse.Namespace, checkpoint: Checkpoint) -> None:
    from linformer_fairseq.checkpoints.checkpoint import write

    write(checkpoint, a.target, a.force)
    print(f"{a.target}: written; fairseq-train starts from it with --restore-file {a.target}")
