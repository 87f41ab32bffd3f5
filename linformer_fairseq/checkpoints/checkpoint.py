"""A fairseq checkpoint without its training state: parameters, settings, and how it was made. Read this file first.

Every conversion makes a `Checkpoint` from another one or from files, which it does not change.
"""

import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from linformer_fairseq.checkpoints.files import read_tensors, save_tensors
from linformer_fairseq.checkpoints.names import EMBEDDING, HEADS, LM_HEAD
from linformer_fairseq.compat.checkpoints import load, refuse_larger
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done, sync
from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.models import architectures, linformer_roberta
from linformer_fairseq.models.config import TRAINED_SETTINGS
from linformer_fairseq.models.config import encoder_config as config_of_settings

PAD = 1  # fairseq's id of <pad>
MAX_SPECIAL = 1 + PAD  # rows of the position table before the first position
SAFETENSORS = ".safetensors"
FINE_TUNED = "fine-tuned"  # the note of a fine-tuning, which names the classes
CONTRASTIVE = "contrastive"  # that of one on pairs of texts, which names the pooling
_OURS = "linformer_fairseq"  # what is ours in a file


@dataclass
class Checkpoint:
    """What a checkpoint holds besides its training state; settings, notes and scores are plain values."""

    state: dict[str, Tensor]  # parameters and buffers by fairseq's names; a shared matrix is one tensor
    model: dict[str, Any]  # settings, by the names in `LinformerRobertaConfig`, and `_name`, the architecture
    task: dict[str, Any] = field(default_factory=dict)  # its settings
    updates: int = 0  # of training
    notes: list[dict[str, Any]] = field(default_factory=list)  # one for each conversion, oldest first
    scores: dict[str, float] = field(default_factory=dict)  # results on held-out data, by name

    @property
    def data(self) -> Path:
        """The folder that it was trained on, with dictionary and tokenizer; the first one if there are several."""
        return Path(str(self.task.get("data") or "").split(":")[0])

    @property
    def heads(self) -> list[str]:
        """Names of the classification heads."""
        return sorted({key.removeprefix(HEADS).split(".")[0] for key in self.state if key.startswith(HEADS)})

    @property
    def pooling(self) -> str | None:
        """How vectors were pooled in a fine-tuning on pairs of texts; None without one."""
        pooling: str | None = self.note(CONTRASTIVE).get("pooling")
        return pooling

    def note(self, conversion: str) -> dict[str, Any]:
        """The last note of a conversion of this name; empty without one."""
        return next((note for note in reversed(self.notes) if note.get("conversion") == conversion), {})

    def converted(self, note: dict[str, Any] | None = None, **changes: Any) -> "Checkpoint":
        """A copy with other fields and one more note; without scores, which were those of the original."""
        fresh: dict[str, Any] = {"state": dict(self.state), "notes": [*self.notes, *filter(None, [note])], "scores": {}}
        return replace(self, **fresh | changes)

    def about(self) -> dict[str, Any]:
        """All but the parameters, as other forms store it."""
        return {key: value for key, value in vars(self).items() if key != "state"}


def read(path: Path) -> Checkpoint:
    """Read a .pt file of fairseq or a .safetensors file of `write`; UsageError for others, and for code in a file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a checkpoint of fairseq, such as checkpoint_best.pt")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    with path.open("rb") as file:
        content = load(file, map_location="cpu")
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise UsageError(f"{path}: holds no `model`, so it is not a checkpoint of fairseq")
    cfg, args = content.get("cfg"), content.get("args")
    if cfg is None and isinstance(args, Namespace):  # before 2021
        cfg = convert_namespace_to_omegaconf(args)
    if cfg is None or "model" not in cfg:
        raise UsageError(f"{path}: holds no settings of its model, so it is not a checkpoint of fairseq")
    model, task = _plain(cfg["model"]), _plain(cfg.get("task"))
    ours = content.get(_OURS) or {}
    state = {str(key): value for key, value in content["model"].items() if isinstance(value, Tensor)}
    updates = int((content.get("optimizer_history") or [{}])[-1].get("num_updates", 0))
    refuse_larger(path, model, state)
    scores = dict(ours.get("scores") or _scores(content, task))
    return Checkpoint(state, model, task, updates, list(ours.get("notes", [])), scores)


def _read_safetensors(path: Path) -> Checkpoint:
    state, metadata = read_tensors(path)
    if _OURS not in metadata:
        raise UsageError(f"{path}: holds no settings of a checkpoint; it was not written by to-safetensors")
    try:
        about = json.loads(metadata[_OURS])
        state |= {key: state[original] for key, original in about.pop("same").items()}
        checkpoint = Checkpoint(state, **about)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not a whole safetensors file of to-safetensors ({error})") from error
    refuse_larger(path, checkpoint.model, state)
    return checkpoint


def _scores(content: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, float]:
    """What fairseq measured when it saved: of masked-LM training the loss, which it counts in bits."""
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
    """Write a .safetensors file, which only holds tensors and text, or a .pt file for fairseq.

    fairseq's commands and `from_pretrained` load the latter, and training starts from it with a new optimizer.
    """
    with replace_when_done(path, force) as partial:
        if path.suffix == SAFETENSORS:
            _write_safetensors(checkpoint, partial)
        else:
            with partial.open("wb") as file:
                torch.save(_fairseq_content(checkpoint), file)
        sync(partial)


def _fairseq_content(checkpoint: Checkpoint) -> dict[str, Any]:
    cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["model"] = {**checkpoint.model, "_name": checkpoint.model.get("_name") or architectures.MODEL}
    cfg["task"] = {"_name": "masked_lm", **checkpoint.task}
    cfg["criterion"] = {"_name": "sentence_prediction" if checkpoint.heads else "masked_lm"}
    cfg["optimizer"] = cfg["lr_scheduler"] = None
    return {
        "args": None,
        "cfg": cfg,
        "model": dict(checkpoint.state),
        "criterion": None,
        # A history without an optimizer's state: training starts a new one, at update 0 and with the first batch.
        "optimizer_history": [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": checkpoint.updates}],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "task_state": {},
        _OURS: {"notes": checkpoint.notes, "scores": checkpoint.scores},
    }


def _write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """A matrix that several names share is stored once."""
    first: dict[tuple[int, Any], str] = {}
    originals = {
        key: first.setdefault((value.data_ptr(), value.shape), key) if value.numel() else key
        for key, value in checkpoint.state.items()
    }
    same = {key: original for key, original in originals.items() if original != key}
    stored = {key: value.detach().contiguous() for key, value in checkpoint.state.items() if key not in same}
    save_tensors(stored, path, {_OURS: json.dumps({**checkpoint.about(), "same": same}, default=str)})


def encoder_config(checkpoint: Checkpoint) -> EncoderConfig:
    """The encoder's configuration; UsageError for another model, or settings that do not fit together."""
    name = checkpoint.model.get("_name")
    if name not in architectures.ARCHITECTURES or EMBEDDING not in checkpoint.state:
        raise UsageError(
            f"a checkpoint of --arch {name} is not one of this project's models; "
            "`linformer convert from-official` and `from-roberta` convert some others"
        )
    try:
        return config_of_settings(complete_settings(checkpoint.model), checkpoint.state[EMBEDDING].size(0), PAD)
    except ValueError as error:
        raise UsageError(f"the settings of the checkpoint do not fit together: {error}") from error


def complete_settings(model: Mapping[str, Any]) -> Namespace:
    """Settings of the model, with those of its architecture where they are missing."""
    settings = Namespace(**model)
    architectures.complete(settings, 0)
    return settings


def trained_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings that a model keeps when it is trained further; others, such as dropout, are those of a recipe."""
    complete = vars(complete_settings(checkpoint.model))
    names = ("_name", *TRAINED_SETTINGS, "untie_weights_roberta")
    return {name: complete[name] for name in names if complete.get(name) is not None}


def untrained(model: Mapping[str, Any], vocabulary: int) -> linformer_roberta.LinformerRobertaModel:
    """A new fairseq model of these settings, without classification heads: random parameters, always the same."""
    settings = complete_settings(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        encoder = linformer_roberta.LinformerRobertaEncoder(settings, symbols(vocabulary))
        return linformer_roberta.LinformerRobertaModel(settings, encoder)


def build(checkpoint: Checkpoint) -> linformer_roberta.LinformerRobertaModel:
    """The fairseq model, with its classification heads, in evaluation mode.

    UsageError as of `encoder_config`, and for parameters that are missing, superfluous or of the wrong shape.
    """
    model = untrained(checkpoint.model, encoder_config(checkpoint).vocab_size)
    state = {key: value for key, value in checkpoint.state.items() if not key.endswith(".version")}
    for name in checkpoint.heads:
        head = f"{HEADS}{name}."
        inner = state.get(f"{head}dense.weight")
        out = state.get(f"{head}out_proj.weight", state.get(f"{head}out_proj.weight_orig"))  # with spectral norm
        if inner is None or out is None:
            raise UsageError(f"the parameters of the checkpoint do not fit its settings: {head}* is not whole")
        model.register_classification_head(name, num_classes=out.size(0), inner_dim=inner.size(0))
    try:
        # Not the model's own method: fairseq's fills in what a head lacks with random values, and says nothing.
        nn.Module.load_state_dict(model, state, strict=True)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise UsageError(f"the parameters of the checkpoint do not fit its settings: {found[:400]}") from error
    model.eval()
    return model


def completed(checkpoint: Checkpoint) -> Checkpoint:
    """The same with the whole state of its model, buffers included, in its order; a UsageError as `build`."""
    return replace(checkpoint, state=build(checkpoint).state_dict())


def symbols(size: int) -> Dictionary:
    """A dictionary of `size` symbols, `<mask>` the last; a model needs no more of one."""
    dictionary = Dictionary()
    for name in (*map(str, range(size - len(dictionary) - 1)), "<mask>"):
        dictionary.add_symbol(name)
    return dictionary


def new_lm_head(embedding: Tensor, tied: bool = True) -> dict[str, Tensor]:
    """An untrained masked-LM head for a model without one, always the same, by fairseq's names.

    `embedding` (V, C) is the model's, and the output matrix as well if `tied`; its type becomes that of the head.
    """
    size, channels = embedding.shape
    random = torch.Generator().manual_seed(0)
    head = {
        "dense.weight": nn.init.normal_(torch.empty(channels, channels), std=0.02, generator=random),
        "dense.bias": torch.zeros(channels),
        "bias": torch.zeros(size),
        "layer_norm.weight": torch.ones(channels),
        "layer_norm.bias": torch.zeros(channels),
        "weight": embedding if tied else nn.init.normal_(torch.empty(size, channels), std=0.02, generator=random),
    }
    return {f"{LM_HEAD}{name}": value.to(embedding.dtype) for name, value in head.items()}


def digest(state: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values, the same in every form that a checkpoint is stored in."""
    found = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
