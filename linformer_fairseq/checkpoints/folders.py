"""Folders of Hugging Face where a command takes a checkpoint: they become a file and a folder of a tokenizer."""

from pathlib import Path
from tempfile import TemporaryDirectory

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, read, write
from linformer_fairseq.checkpoints.files import read_json

NAME = "converted.pt"
_temporary: list[TemporaryDirectory[str]] = []  # until this process ends


def as_file(path: Path, out: Path | None = None) -> Path:
    """`path`, or if it is a folder, a file made of it in `out`, by default for as long as this process lasts."""
    if not path.is_dir():
        return path
    from linformer_fairseq.checkpoints.huggingface import write_tokenizer  # of the extra `hf`

    if out is None:
        _temporary.append(TemporaryDirectory())
    file = (out or Path(_temporary[-1].name)) / NAME
    tokenizer = file.with_suffix(".tokenizer")
    made = read_any(path)
    made.task["data"] = str(tokenizer.resolve())
    if not file.is_file() or digest(read(file).state) != digest(made.state):
        write_tokenizer(path, tokenizer, force=True)
        write(made, file, force=True)
    return file


def read_any(path: Path) -> Checkpoint:
    """The model in a file, in a folder of to-hf, or in that of a BERT or RoBERTa, whose attention is exact."""
    if not path.is_dir():
        return read(path)
    from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
    from linformer_fairseq.checkpoints.huggingface import from_hf

    config = path / "config.json"
    ours = config.is_file() and read_json(config).get("model_type") == "linformer"
    return from_hf(path) if ours else from_hf_encoder(path)
