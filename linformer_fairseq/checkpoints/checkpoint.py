"""A fairseq checkpoint without its training: parameters, settings, and how it was made.

Every conversion reads one form into a `Checkpoint` or writes a `Checkpoint` in one form, and changes neither file nor
object that it was given.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from linformer_fairseq.compat.checkpoints import load
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.models import architectures, linformer_roberta
from linformer_fairseq.models.config import LinformerRobertaConfig
from linformer_fairseq.models.config import encoder_config as config_of_settings

ENCODER = "encoder.sentence_encoder."
EMBEDDING = f"{ENCODER}embed_tokens.weight"
POSITIONS = f"{ENCODER}embed_positions.weight"
OUTPUT = "encoder.lm_head.weight"
HEADS = "classification_heads."
PAD = Dictionary().pad()
MAX_SPECIAL = 1 + PAD  # rows of the position table before the first position


@dataclass
class Checkpoint:
    """What a checkpoint holds that outlives its training.

    Attributes:
        state: parameters and buffers by fairseq's names; a matrix that several names share is one tensor.
        model: plain settings of the model, by the names in `LinformerRobertaConfig`, and `_name`, the architecture.
        task: plain settings of the task.
        updates: that it was trained for.
        notes: of the conversions it went through, oldest first; plain values.
        scores: what was measured of it on held-out data, by name.
    """

    state: dict[str, Tensor]
    model: dict[str, Any]
    task: dict[str, Any] = field(default_factory=dict)
    updates: int = 0
    notes: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The folder that it was trained on, which has its dictionary and tokenizer; of shards, the first."""
        return Path(str(self.task.get("data") or "").split(":")[0])

    @property
    def heads(self) -> list[str]:
        """Names of the classification heads."""
        return sorted({key.removeprefix(HEADS).split(".")[0] for key in self.state if key.startswith(HEADS)})


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint that fairseq, or `write`, has written.

    Raises:
        UsageError: not a whole file, something that could run code, or not a fairseq checkpoint.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a checkpoint of fairseq, such as checkpoint_best.pt")
    with path.open("rb") as file:
        content = load(file, map_location="cpu")
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise UsageError(f"{path}: holds no `model`, so it is not a checkpoint of fairseq")
    model, task = _settings(content, path)
    own = content.get("linformer_fairseq") or {}
    history = content.get("optimizer_history") or [{}]
    return Checkpoint(
        {str(key): value for key, value in content["model"].items() if isinstance(value, Tensor)},
        model,
        task,
        int(history[-1].get("num_updates", 0)),
        list(own.get("notes", [])),
        dict(own.get("scores") or _scores(content, task)),
    )


def _settings(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's and the task's settings, of today's `cfg` or of the `args` before 2021."""
    cfg, args = content.get("cfg"), content.get("args")
    if cfg is None and isinstance(args, Namespace):
        cfg = convert_namespace_to_omegaconf(args)
    if cfg is None or "model" not in cfg:
        raise UsageError(f"{path}: holds no settings of its model, so it is not a checkpoint of fairseq")
    return _plain(cfg["model"]), _plain(cfg.get("task"))


def _scores(content: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, float]:
    """What fairseq measured when it saved: of masked-LM training, the loss, which it counts in bits."""
    loss = (content.get("extra_state") or {}).get("val_loss")
    metric = ((content.get("cfg") or {}).get("checkpoint") or {}).get("best_checkpoint_metric")
    masked_lm = task.get("_name") in ("masked_lm", "streaming_masked_lm") and metric == "loss"
    return {"validation perplexity": round(2**loss, 2)} if masked_lm and isinstance(loss, float) else {}


def _plain(section: Any) -> dict[str, Any]:
    """A section of the settings, whatever fairseq has made of it, as a dict."""
    if isinstance(section, Namespace):
        section = vars(section)
    elif isinstance(section, DictConfig):
        section = OmegaConf.to_container(section, resolve=True)
    plain = {str(key): value for key, value in dict(section or {}).items()}
    # An old Namespace has the settings of everything, and calls the model's name `arch`.
    if plain.get("_name") is None and plain.get("arch"):
        plain["_name"] = plain["arch"]
    return plain


def write(checkpoint: Checkpoint, path: Path, force: bool = False) -> None:
    """Writes a file that fairseq's commands and `from_pretrained` load, and training starts from with a new optimizer.

    Raises:
        UsageError: the file exists, and not `force`.
    """
    cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["model"] = {**checkpoint.model, "_name": checkpoint.model.get("_name") or architectures.MODEL}
    cfg["task"] = {"_name": "masked_lm", **checkpoint.task}
    cfg["criterion"] = {"_name": "sentence_prediction" if checkpoint.heads else "masked_lm"}
    cfg["optimizer"] = cfg["lr_scheduler"] = None
    content: dict[str, Any] = {
        "args": None,
        "cfg": cfg,
        "model": dict(checkpoint.state),
        "criterion": None,
        # A history without an optimizer's state: training starts a new one, at update 0 and with the first batch.
        "optimizer_history": [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": checkpoint.updates}],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": {},
        "linformer_fairseq": {"notes": checkpoint.notes, "scores": checkpoint.scores},
    }
    with atomically(path, force) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomically(path: Path, force: bool) -> Iterator[Path]:
    """Gives a temporary name beside `path`, for a file or a folder, which becomes `path` only if the block ends well.

    Raises:
        UsageError: `path` exists, and not `force`; or its folder cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists; choose another target, or replace it with --force")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.exists():
            aside = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, aside)
            os.replace(temporary, path)
            _remove(aside)
        else:
            os.replace(temporary, path)
    except PermissionError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another target") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def encoder_config(checkpoint: Checkpoint) -> EncoderConfig:
    """The encoder's configuration.

    Raises:
        UsageError: not a checkpoint of this project's model, or its parameters do not fit its settings.
    """
    name = checkpoint.model.get("_name")
    if name not in architectures.ARCHITECTURES or EMBEDDING not in checkpoint.state:
        raise UsageError(
            f"a checkpoint of --arch {name} is none of this project's models; "
            "from-official and from-roberta of recipes/convert.py turn some others into one"
        )
    settings = complete_settings(checkpoint.model)
    try:
        return config_of_settings(settings, checkpoint.state[EMBEDDING].size(0), PAD)
    except ValueError as error:
        raise UsageError(f"the settings of the checkpoint do not fit together: {error}") from error


def complete_settings(model: Mapping[str, Any]) -> Namespace:
    """Settings of the model with those of its architecture where it has none."""
    settings = Namespace(**{f.name: f.default for f in fields(LinformerRobertaConfig)} | dict(model))
    architectures.complete(settings, 0)
    return settings


def build(checkpoint: Checkpoint) -> linformer_roberta.LinformerRobertaModel:
    """The fairseq model, its classification heads included, in evaluation mode.

    Raises:
        UsageError: as `encoder_config`, or parameters are missing, superfluous or of another shape.
    """
    config = encoder_config(checkpoint)
    settings = complete_settings(checkpoint.model)
    encoder = linformer_roberta.LinformerRobertaEncoder(settings, symbols(config.vocab_size))
    model = linformer_roberta.LinformerRobertaModel(settings, encoder)
    for name in checkpoint.heads:
        out, inner = (_rows(checkpoint.state, f"{HEADS}{name}.{part}") for part in ("out_proj", "dense"))
        model.register_classification_head(name, num_classes=out, inner_dim=inner)
    state = {key: value for key, value in checkpoint.state.items() if not key.endswith(".version")}
    try:
        # Not the model's own method: fairseq's fills in what a head lacks with random values, and says nothing.
        nn.Module.load_state_dict(model, state, strict=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise UsageError(f"the parameters of the checkpoint do not fit its settings: {found[:400]}") from error
    model.eval()
    return model


def _rows(state: Mapping[str, Tensor], layer: str) -> int:
    """Outputs of a linear layer; with spectral norm its matrix has another name."""
    for name in (f"{layer}.weight", f"{layer}.weight_orig"):
        if name in state:
            return state[name].size(0)
    raise UsageError(f"the parameters of the checkpoint do not fit its settings: {layer}.weight is missing")


def symbols(size: int) -> Dictionary:
    """A dictionary of `size` symbols, `<mask>` the last: all that a model asks of one."""
    dictionary = Dictionary()
    for number in range(size - len(dictionary) - 1):
        dictionary.add_symbol(f"{number}")
    dictionary.add_symbol("<mask>")
    return dictionary


def digest(state: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values, the same in every form that a checkpoint is stored in."""
    found = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
