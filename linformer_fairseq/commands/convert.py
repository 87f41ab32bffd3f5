"""Convert checkpoints from one form to another.

    linformer convert inspect checkpoint_best.pt
    linformer convert to-hf checkpoint_best.pt my-linformer --data data-run/data
    linformer convert release RUN my-linformer
    linformer convert from-roberta roberta.base/model.pt linformer.pt --projected-length 256
    linformer convert from-bert all-MiniLM-L6-v2 linformer.pt --max-positions 4096
    linformer convert extend checkpoint_best.pt longer.pt --max-positions 4096

No command changes what it reads, runs code from a file, or overwrites a target without --force. SRC is a .pt file of
fairseq's, a .safetensors file of to-safetensors, or a folder of Hugging Face. fairseq loads every .pt file that is
written here; to train it further, give fairseq-train --finetune-from-model FILE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import check_target
from linformer_fairseq.ranges import POSITIONS, whole

if TYPE_CHECKING:  # --help does not wait for torch and fairseq
    from linformer_fairseq.checkpoints.checkpoint import Checkpoint

# Of `layers/config.py`, which cannot be imported without torch.
SHARINGS = ("none", "headwise", "key-value", "layerwise")
PROJECTIONS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")
INITS = ("block-mean", "svd", "random", "exact")
METHODS = ("keep", "interpolate", "tile")
_OF_LINFORMER = ("projected_length", "projection_sharing", "projection", "local_window", "init", "transfer")


def main(argv: list[str] | None = None) -> int:
    """Run one conversion; returns the exit status."""
    a = parser().parse_args(argv)
    if a.command != "inspect":
        check_target(a.target, a.force)
    made: Checkpoint | None = a.run(a)
    if made is not None:
        from linformer_fairseq.checkpoints.checkpoint import write

        tokenizer = a.target.with_suffix(".tokenizer")
        if a.source.is_dir():
            made.task["data"] = str(tokenizer.resolve())
        write(made, a.target, a.force)
        print(f"{a.target}: written")
        if a.target.suffix != ".safetensors":
            print(f"To train it further: fairseq-train --finetune-from-model {a.target}")
        if a.source.is_dir():
            from linformer_fairseq.checkpoints.huggingface import write_tokenizer

            write_tokenizer(a.source, tokenizer, a.force)
            print(f"{tokenizer}: dict.txt and the tokenizer's files, for --data and `data_prep tokenizer --import`")
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("convert", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], Checkpoint | None], text: str, target: str = "DST.pt"
    ) -> Callable[..., argparse.Action]:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(run=run)
        added.add_argument("source", type=Path, metavar="SRC", help="what is read")
        if target:
            added.add_argument("target", type=Path, metavar=target, help="what is written")
            added.add_argument("--force", action="store_true", help="replace the target if it exists")
        return added.add_argument

    add = command("inspect", _inspect, "say what a checkpoint is", target="")
    add("--json", action="store_true", help="for programs")

    command("from-official", _change, "a checkpoint of fairseq's examples/linformer becomes one of ours")

    shown = "a BERT, RoBERTa, XLM-R, CamemBERT or MiniLM of Hugging Face or sentence-transformers (folder) becomes ours"
    for name, projection, text in (
        ("from-roberta", "linear", "a RoBERTa of fairseq (.pt), or any of the models of from-bert, becomes ours"),
        ("from-bert", "adaptive", shown),
    ):
        add = command(name, _from_roberta, text)
        add("--projected-length", metavar="K", help="k, as for training (default: 256)")
        positions = "longest input (default: that of the model); positions beyond its own repeat them"
        add("--max-positions", type=whole(1, POSITIONS), metavar="N", help=positions)
        add("--projection-sharing", choices=SHARINGS, help="sharing of E and F (default: layerwise)")
        add("--projection", choices=PROJECTIONS, help=f"kind of E and F (default: {projection})")
        window = "W: attend exactly to W neighbours on each side beside the slots (default: 0)"
        add("--local-window", type=whole(0, POSITIONS), metavar="W", help=window)
        init = "averages of n/k neighbours, the leading directions of the model's own attention on --sample, or "
        init = f"initial E and F: {init}N(0, 1/k); exact is --attention exact (default: block-mean)"
        add("--init", choices=INITS, help=init)
        attention = "exact keeps the attention of the model, without E and F (default: linformer)"
        add("--attention", default="linformer", choices=("linformer", "exact"), help=attention)
        sample = "binarised data: for svd and --transfer, and to print the perplexity before and after"
        add("--sample", type=Path, metavar="DIR", help=sample)
        transfer = "N steps of fitting each layer's output to that of exact attention"
        add("--transfer", type=whole(0, 1_000_000), metavar="N", help=transfer)

    add = command("extend", _change, "longer inputs, or another projected length")
    add("--max-positions", type=whole(1, POSITIONS), metavar="N", help="new longest input in tokens")
    add("--projected-length", metavar="K", help="new k, or one per layer")
    method = "keep what short inputs give (default), or interpolate or tile positions, E and F"
    add("--method", default="keep", choices=METHODS, help=method)

    release = "such a folder of a checkpoint or a run, with model.onnx, a model card of what is known, and checksums"
    for name, text in (
        ("to-hf", "a folder that transformers loads with trust_remote_code=True"),
        ("release", release),
    ):
        add = command(name, _export, text, "DIR")
        add("--data", type=Path, metavar="DIR", help="folder of dict.txt and tokenizer (default: that of training)")
        add("--head", metavar="NAME", help="classification head to export, if there are several")
        add("--labels", nargs="+", metavar="NAME", help="names of its classes, in the order of their ids")

    command("from-hf", _change, "such a folder becomes a fairseq checkpoint again")
    command("to-safetensors", _change, "one file of tensors and text, read by all commands here", "DST")
    command("from-safetensors", _change, "such a file becomes a fairseq checkpoint again")
    return top


def _inspect(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.describe import describe
    from linformer_fairseq.checkpoints.folders import read_any

    about = describe(read_any(a.source), a.source)
    lines = (f"{name:32}{value:,}" if isinstance(value, int) else f"{name:32}{value}" for name, value in about.items())
    print(json.dumps(about, indent=1) if a.json else "\n".join(lines))


def _change(a: argparse.Namespace) -> Checkpoint:
    """The conversions that need nothing but what they read."""
    from linformer_fairseq.checkpoints.folders import read_any

    if a.command == "from-hf":
        from linformer_fairseq.checkpoints.huggingface import from_hf

        return from_hf(a.source)
    if a.command == "from-official":
        from linformer_fairseq.checkpoints.official import from_official

        return from_official(read_any(a.source))
    if a.command == "extend":
        from linformer_fairseq.checkpoints.extend import extend

        if a.max_positions is None and a.projected_length is None:
            raise UsageError("nothing to do: give --max-positions, --projected-length or both")
        return extend(read_any(a.source), a.max_positions, a.projected_length, a.method)
    if a.command == "to-safetensors" and a.target.suffix != ".safetensors":
        raise UsageError(f"{a.target}: its name must end with .safetensors, by which all commands recognize it")
    return read_any(a.source)


def _from_roberta(a: argparse.Namespace) -> Checkpoint:
    from linformer_fairseq.checkpoints.roberta import from_roberta
    from linformer_fairseq.checkpoints.sample import compare, sample_batches
    from linformer_fairseq.checkpoints.transfer import transfer
    from linformer_fairseq.checkpoints.warm_start import longer, to_linformer

    if a.command == "from-bert" and not a.source.is_dir():
        raise UsageError(f"{a.source}: no such folder; give that of a Hugging Face model, with its config.json")
    stays_exact = "exact" in (a.init, a.attention)
    for name in _OF_LINFORMER if stays_exact else ():
        if getattr(a, name) not in (None, "exact"):
            raise UsageError(f"--{name.replace('_', '-')}: a model with exact attention has none; leave it out")
    projection = a.projection or ("adaptive" if a.command == "from-bert" else "linear")
    shape = a.projected_length or "256", a.max_positions, a.projection_sharing or "layerwise", projection
    needs_text = not stays_exact and (a.init == "svd" or a.transfer)
    if needs_text and a.sample is None:
        raise UsageError("--init svd and --transfer look at the model's attention on text: name it with --sample")
    exact = from_roberta(a.source)
    if a.source.is_dir():
        note = exact.notes[-1]
        if note["left out"]:
            print(f"left out, since no Linformer has it: {' and '.join(note['left out'])}")
        if note["new masked-LM head"]:
            print("the folder has no masked-LM head: a new one, whose output matrix is the embedding, is untrained")
    if stays_exact:
        made = longer(exact, a.max_positions)
    else:
        batches = sample_batches(a.sample, exact, min(a.transfer or 0, 64)) if needs_text else ()
        made = to_linformer(exact, *shape, a.init or "block-mean", batches, a.local_window or 0)
        if a.transfer:
            made, losses = transfer(exact, made, batches, a.transfer)
            print(f"attention transfer: relative error {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last")
    if a.sample:
        models = {"the RoBERTa": exact, "converted": made}
        if not stays_exact and projection in ("linear", "conv"):
            models["with random E and F"] = to_linformer(exact, *shape, "random")
        print(compare(a.sample, models))
    return made


def _export(a: argparse.Namespace) -> None:
    from linformer_fairseq.checkpoints.folders import read_any
    from linformer_fairseq.checkpoints.huggingface import to_hf

    write: Callable[..., None] = to_hf
    if a.command == "release":
        from linformer_fairseq.reporting.release import checkpoint_of, release

        a.source = checkpoint_of(a.source)
        write = partial(release, a.source.parent)
    checkpoint = read_any(a.source)
    data = a.data or checkpoint.data
    if not (data / "dict.txt").is_file():
        raise UsageError(f"{data / 'dict.txt'}: no such file; --data names the folder that the model was trained on")
    write(checkpoint, data, a.target, a.force, a.head, a.labels)
    print(f"{a.target}: AutoModel.from_pretrained({str(a.target)!r}, trust_remote_code=True)")
