"""A checkpoint as a folder for Hugging Face transformers, and back.

The folder needs neither fairseq nor this package: it holds the encoder's own files, the models around it, a fast
tokenizer, and all parameters, those of every head included. Whoever loads it takes the head that is asked for.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from linformer_fairseq import hf, layers
from linformer_fairseq.checkpoints.checkpoint import (
    EMBEDDING,
    HEADS,
    OUTPUT,
    Checkpoint,
    atomically,
    build,
    complete_settings,
    encoder_config,
)
from linformer_fairseq.checkpoints.describe import describe
from linformer_fairseq.checkpoints.fresh_head import fresh_lm_head
from linformer_fairseq.checkpoints.hf_names import (
    fairseq_settings,
    to_fairseq_names,
    to_hf_names,
    without_folders,
)
from linformer_fairseq.errors import UsageError
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.model_card import model_card
from linformer_fairseq.hf.tokenizer import DICTIONARY, GPT2_MERGES, GPT2_VOCABULARY, SENTENCEPIECE, build_tokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer_config.json"
TOKENIZER_FILES = (DICTIONARY, SENTENCEPIECE, GPT2_VOCABULARY, GPT2_MERGES)
DEFAULT_HEAD = "sentence_classification_head"  # fairseq's task sentence_prediction calls it so
AUTO_MAP = {
    "AutoConfig": "configuration_linformer.LinformerConfig",
    "AutoModel": "modeling_linformer.LinformerModel",
    "AutoModelForMaskedLM": "modeling_linformer.LinformerForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_linformer.LinformerForSequenceClassification",
}


def to_hf(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    force: bool = False,
    head: str | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        checkpoint: of this project's model.
        data: folder with the dict.txt of training and the tokenizer's files beside it.
        out: the folder to write.
        force: replace `out` if it exists.
        head: the classification head that becomes `AutoModelForSequenceClassification`; by default the only one.
        labels: names of its classes, in the order of their ids.

    Raises:
        UsageError: `out` exists, and not `force`; the checkpoint is of another model; dictionary, head or labels do
            not fit it.
    """
    if any(key.endswith(".weight_orig") for key in checkpoint.state):
        raise UsageError("its classification head has spectral norm, which has no place in such a folder")
    build(checkpoint)  # refuses what does not fit together
    head = _choose_head(checkpoint, head)
    config = _config(checkpoint, head, labels)
    try:
        tokenizer = build_tokenizer(data, config.max_position_embeddings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if len(tokenizer) != config.vocab_size:
        raise UsageError(
            f"{data / DICTIONARY} makes {len(tokenizer):,} symbols and the checkpoint has {config.vocab_size:,}; "
            "give the dictionary that the model was trained with (--data)"
        )
    names = list(config.label2id) if head and config.label2id else None
    about = describe(replace(checkpoint, task=without_folders(checkpoint.task)), out)
    with atomically(out, force) as folder:
        folder.mkdir()
        config.save_pretrained(folder)
        save_file(to_hf_names(checkpoint, head, config), folder / WEIGHTS, {"format": "pt"})
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # the library makes it readable to its owner only
        tokenizer.save_pretrained(folder)
        _name_tokenizer_class(folder / TOKENIZER)
        for name in TOKENIZER_FILES:
            if (data / name).is_file():
                shutil.copyfile(data / name, folder / name)
        _copy_code(folder)
        card = model_card(out.name, about, config.max_position_embeddings, names)
        (folder / "README.md").write_text(card, encoding="utf-8")
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _choose_head(checkpoint: Checkpoint, head: str | None) -> str | None:
    if head is None and len(checkpoint.heads) > 1:
        raise UsageError(f"the checkpoint has the heads {', '.join(checkpoint.heads)}; choose one with --head")
    if head is not None and head not in checkpoint.heads:
        raise UsageError(f"--head {head}: the checkpoint has {', '.join(checkpoint.heads) or 'no classification head'}")
    return head or next(iter(checkpoint.heads), None)


def _config(checkpoint: Checkpoint, head: str | None, labels: Sequence[str] | None) -> LinformerConfig:
    settings = complete_settings(checkpoint.model)
    own: dict[str, Any] = {}
    if head is not None:
        dense, out = (checkpoint.state[f"{HEADS}{head}.{part}.weight"] for part in ("dense", "out_proj"))
        if dense.size(0) != dense.size(1):
            raise UsageError(
                f"--head {head}: has {dense.size(0)} inner channels, not {dense.size(1)}; it cannot travel"
            )
        names = list(labels) if labels else [f"LABEL_{i}" for i in range(out.size(0))]
        if len(set(names)) != out.size(0):
            raise UsageError(f"--labels {' '.join(names)}: the head {head} has {out.size(0)} classes; name each once")
        own["id2label"] = dict(enumerate(names))
        own["label2id"] = {name: i for i, name in enumerate(names)}
        if checkpoint.task.get("regression_target"):
            own["problem_type"] = "regression"
    elif labels:
        raise UsageError("--labels: the checkpoint has no classification head")
    record = {"model": checkpoint.model, "task": checkpoint.task, "updates": checkpoint.updates}
    record |= {"notes": checkpoint.notes, "scores": checkpoint.scores, "head": head}
    return LinformerConfig.of_encoder(
        encoder_config(checkpoint),
        tie_word_embeddings=not settings.untie_weights_roberta,
        classifier_act=str(settings.pooler_activation_fn),
        classifier_dropout=settings.pooler_dropout,
        dtype=checkpoint.state[EMBEDDING].dtype,
        architectures=[f"LinformerFor{'MaskedLM' if head is None else 'SequenceClassification'}"],
        auto_map=AUTO_MAP,
        fairseq=without_folders(json.loads(json.dumps(record, default=str))),
        **own,
    )


def _name_tokenizer_class(path: Path) -> None:
    """The class by the name that every version of transformers knows."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _copy_code(folder: Path) -> None:
    """The encoder's files as they are, and the two of `hf` that import them from the same folder."""
    for source in Path(layers.__path__[0]).glob("*.py"):
        if source.name != "__init__.py":
            shutil.copyfile(source, folder / source.name)
    for name in ("configuration_linformer.py", "modeling_linformer.py"):
        code = (Path(hf.__path__[0]) / name).read_text(encoding="utf-8")
        (folder / name).write_text(code.replace("from ..layers.", "from ."), encoding="utf-8")


def from_hf(folder: Path) -> Checkpoint:
    """Reads such a folder, as it was written or after training with transformers; runs no code in it.

    Raises:
        UsageError: another or a damaged folder.
    """
    config = _read_config(folder)
    record: dict[str, Any] = getattr(config, "fairseq", None) or {}
    state = to_fairseq_names(_read_weights(folder), record.get("head") or DEFAULT_HEAD)
    notes = list(record.get("notes", []))
    if EMBEDDING in state and "encoder.lm_head.dense.weight" not in state:
        state |= fresh_lm_head(state[EMBEDDING], config.tie_word_embeddings)
        notes.append({"conversion": "from-hf", "masked-LM head": "new, since the folder has none"})
    if EMBEDDING in state and config.tie_word_embeddings:
        state[OUTPUT] = state[EMBEDDING]
    task = dict(record.get("task", {}))
    checkpoint = Checkpoint(
        state,
        fairseq_settings(config, record.get("model", {})),
        task,
        record.get("updates", 0),
        notes,
        record.get("scores", {}),
    )
    build(checkpoint)
    return checkpoint


def write_tokenizer(folder: Path, target: Path, force: bool = False) -> None:
    """Copies dict.txt and the tokenizer's files, which fairseq needs beside a model, out of an exported folder.

    Args:
        folder: that `to_hf` has written.
        target: a folder; it is made if need be.
        force: replace files of these names there.

    Raises:
        UsageError: the folder has no dict.txt, or a file exists in `target`, and not `force`.
    """
    if not (folder / DICTIONARY).is_file():
        raise UsageError(f"{folder / DICTIONARY}: no such file; take it from the folder that to-hf has written")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            with atomically(target / name, force) as temporary:
                shutil.copyfile(folder / name, temporary)


def _read_config(folder: Path) -> LinformerConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a folder that to-hf or save_pretrained has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("model_type") != LinformerConfig.model_type:
            raise UsageError(f"{path}: describes a model of type {content.get('model_type')}, not a Linformer")
        config = LinformerConfig.from_dict(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not the configuration of a Linformer ({error})") from error
    assert isinstance(config, LinformerConfig)
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of one file, or of several that an index lists."""
    index = folder / f"{WEIGHTS}.index.json"
    try:
        names = {WEIGHTS}
        if index.is_file():
            names = {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        return {key: value for name in sorted(names) for key, value in load_file(folder / name).items()}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"{folder / WEIGHTS}: missing or not a whole safetensors file ({error})") from error
