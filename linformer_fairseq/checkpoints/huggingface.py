"""A checkpoint as a folder for Hugging Face transformers, and back.

The folder needs neither fairseq nor this package: it holds the encoder's own files, the models around it, a fast
tokenizer, and all parameters, those of every head included. Whoever loads it chooses the head. A model that came from
Hugging Face has its own ids, tokenizer and pooling there again, see `hf_kept.py`.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.encoders import TOKENIZER_FILES
from data_prep.encoders import load as load_encoder
from data_prep.fairseq_dict import BOS, DICTIONARY, EOS, PAD, SPECIALS
from linformer_fairseq.checkpoints import names
from linformer_fairseq.checkpoints.checkpoint import (
    CONTRASTIVE,
    FINE_TUNED,
    Checkpoint,
    build,
    complete_settings,
    encoder_config,
    new_lm_head,
)
from linformer_fairseq.checkpoints.describe import describe, model_card
from linformer_fairseq.checkpoints.files import WEIGHTS, read_json, read_weights, save_tensors
from linformer_fairseq.checkpoints.hf_code import write_code
from linformer_fairseq.checkpoints.hf_kept import (
    MODULES,
    SETTINGS,
    encoder_folder,
    keep,
    normalizes,
    note_of_head,
    pooling_of,
    restore,
    write_modules,
)
from linformer_fairseq.checkpoints.hf_tokenizer import build_tokenizer
from linformer_fairseq.checkpoints.hf_vocabulary import read_tokenizer, special_of, to_our_rows, to_their_rows
from linformer_fairseq.errors import UsageError
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.io.files import replace_when_done, sync
from linformer_fairseq.layers.config import option_names
from linformer_fairseq.models.architectures import MODEL

HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
AUTO_MAP = {
    "AutoConfig": "configuration_linformer.LinformerConfig",
    "AutoModel": "modeling_linformer.LinformerModel",
    **{f"AutoModelFor{head}": f"modeling_linformer.LinformerFor{head}" for head in HEADS},
}
_ONLY_TRANSFORMERS = ("qa_outputs.", "classifier.weight", "classifier.bias")  # heads that fairseq does not have
_HEAD_SETTINGS = {"pooler_activation_fn": "classifier_act", "pooler_dropout": "classifier_dropout"}


def to_hf(
    checkpoint: Checkpoint,
    data: Path,
    out: Path,
    force: bool = False,
    head: str | None = None,
    labels: Sequence[str] | None = None,
    *,
    evidence: str | None = None,
    finish: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write the folder `out`, atomically; UsageError if it exists and not `force`, or something does not fit.

    Args:
        data: folder with the dict.txt of training and the tokenizer's files beside it.
        head: the classification head that becomes `AutoModelForSequenceClassification`; by default the only one.
        labels: names of its classes, in the order of their ids; by default those of its fine-tuning.
        evidence: sections of the model card on data, evaluation and limits.
        finish: adds to the folder when all else is in it.
    """
    if any(key.endswith(".weight_orig") for key in checkpoint.state):
        raise UsageError("the classification head has spectral norm and cannot be exported")
    build(checkpoint)  # refuses what does not fit together
    heads = checkpoint.heads
    if head is None and len(heads) > 1:
        raise UsageError(f"the checkpoint has the heads {', '.join(heads)}; choose one with --head")
    if head not in (None, *heads):
        raise UsageError(f"--head {head}: the checkpoint has {', '.join(heads) or 'no classification head'}")
    head = head or next(iter(heads), None)
    encoder = load_encoder(data)
    config = _config(checkpoint, head, labels, encoder.special)
    if encoder.symbols != config.vocab_size:
        found = f"{data / DICTIONARY} makes {encoder.symbols:,} symbols and the checkpoint has {config.vocab_size:,}"
        raise UsageError(f"{found}; give the dictionary that the model was trained with (--data)")
    longest = config.max_position_embeddings
    tokenizer, state = build_tokenizer(data, longest), checkpoint.state
    if encoder.special is not None:
        state = to_their_rows(state, encoder.special)
    about = describe(replace(checkpoint, task=_without_folders(checkpoint.task)), out)
    with replace_when_done(out, force) as folder:
        folder.mkdir()
        config.save_pretrained(folder)
        save_tensors(names.to_hf_names(state, head, config.tie_word_embeddings), folder / WEIGHTS[0], {})
        tokenizer.save_pretrained(folder)
        # The class by the name that every version of transformers knows.
        settings = read_json(folder / SETTINGS) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        if encoder.special is not None:
            restore(data, folder, longest)
        else:
            _copy_tokenizer(data, folder)
        kept = (folder / MODULES).is_file()
        if checkpoint.pooling or not kept:
            unit = checkpoint.pooling is not None and checkpoint.note(CONTRASTIVE).get("normalized", True)
            write_modules(folder, config.hidden_size, longest, checkpoint.pooling, unit)
            kept = checkpoint.pooling is not None
        write_code(folder)
        classes = [str(name) for name in config.label2id or ()] if head else None
        card = model_card(out.name, about, longest, classes, str(tokenizer.mask_token), kept, evidence)
        (folder / "README.md").write_text(card, encoding="utf-8")
        finish(folder)
        for path in filter(Path.is_file, folder.rglob("*")):
            sync(path)


def _config(
    checkpoint: Checkpoint, head: str | None, labels: Sequence[str] | None, special: Sequence[int] | None
) -> LinformerConfig:
    settings = complete_settings(checkpoint.model)
    own: dict[str, Any] = {key: getattr(settings, name) for name, key in _HEAD_SETTINGS.items()}
    own["classifier_act"] = str(own["classifier_act"])  # fairseq may have made it a member of an enumeration
    own["tie_word_embeddings"] = not settings.untie_weights_roberta
    if head is not None:
        dense, out = (checkpoint.state[f"{names.HEADS}{head}.{part}.weight"] for part in ("dense", "out_proj"))
        inner, channels = dense.shape
        if inner != channels:
            raise UsageError(f"--head {head}: has {inner} inner channels, not {channels}; it cannot be exported")
        tuned, count = checkpoint.note(FINE_TUNED), len(out)
        known = tuned["classes"] if tuned and len(tuned["classes"]) == count else ()
        classes = list(labels or known or (f"LABEL_{i}" for i in range(count)))
        if len(set(classes)) != count:
            raise UsageError(f"--labels {' '.join(classes)}: the head {head} has {count} classes; name each once")
        own["id2label"] = dict(enumerate(classes))
        own["label2id"] = {name: i for i, name in enumerate(classes)}
        if tuned.get("several"):
            own["problem_type"] = "multi_label_classification"
        elif checkpoint.task.get("regression_target") or (tuned and not tuned["classes"]):
            own["problem_type"] = "regression"
    elif labels:
        raise UsageError("--labels: the checkpoint has no classification head")
    record = {**checkpoint.about(), "head": head}
    encoder = encoder_config(checkpoint)
    if special is not None:
        own |= {"bos_token_id": special[BOS], "eos_token_id": special[EOS]}
        encoder, record["special"] = replace(encoder, pad_index=special[PAD]), special
    return LinformerConfig.of_encoder(
        encoder,
        dtype=checkpoint.state[names.EMBEDDING].dtype,
        architectures=[f"LinformerFor{'MaskedLM' if head is None else 'SequenceClassification'}"],
        auto_map=AUTO_MAP,
        fairseq=_without_folders(json.loads(json.dumps(record, default=str))),
        **own,
    )


def _without_folders(value: Any) -> Any:
    """The same with only the last part of every absolute path: the rest is private to the machine."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and value.startswith("/"):
        return ":".join(Path(part).name for part in value.split(":"))
    return value


def from_hf(folder: Path) -> Checkpoint:
    """Read such a folder, as it was written or after training with transformers, without running code in it.

    Heads that fairseq does not have are left out, which a note says. UsageError for a link out of the folder, and for
    what is not such a model.
    """
    encoder_folder(folder)
    config = _read_config(folder)
    record: dict[str, Any] = dict(getattr(config, "fairseq", None) or {})
    weights = read_weights(folder)
    left_out = [key for key in weights if key.startswith(_ONLY_TRANSFORMERS)]
    weights = {key: value for key, value in weights.items() if key not in left_out}
    state = names.to_fairseq_names(weights, record.pop("head", None) or names.DEFAULT_HEAD)
    kept, special = record.pop("special", None), None
    if {names.EMBEDDING, names.POSITIONS} <= state.keys():
        special = kept or _moved_symbols(folder, len(state[names.EMBEDDING]))
    if special is not None:
        state = to_our_rows(state, special, config.pad_token_id + 1)
    checkpoint = Checkpoint(state, **{**record, "model": _fairseq_settings(config, record.get("model", {}))})
    # Symbols that were added, or what a library saved without dict.txt, make another dictionary.
    if (special and not kept) or not (folder / DICTIONARY).is_file():
        for note in checkpoint.notes:
            note.pop("dictionary", None)
    pairs = checkpoint.note(CONTRASTIVE)
    if pairs and (folder / MODULES).is_file():  # sentence-transformers may have trained on with another pooling
        try:
            pairs["pooling"], pairs["normalized"] = pooling_of(folder), normalizes(folder)
        except UsageError:  # one that is not trained here; to-hf writes the modules as they are
            pairs["pooling"] = None
    if left_out:
        checkpoint.notes.append({"conversion": "from-hf", "left out": sorted(left_out)})
    learnt, known = note_of_head(config.to_dict()), checkpoint.note(FINE_TUNED)  # in transformers, or before
    if checkpoint.heads and any(learnt[key] != known.get(key, False) for key in ("classes", "several") if learnt):
        checkpoint.notes.append(learnt)
    if names.EMBEDDING in state and f"{names.LM_HEAD}dense.weight" not in state:
        state |= new_lm_head(state[names.EMBEDDING], config.tie_word_embeddings)
        checkpoint.notes.append({"conversion": "from-hf", "masked-LM head": "new, since the folder has none"})
    if names.EMBEDDING in state and config.tie_word_embeddings:
        state[names.OUTPUT] = state[names.EMBEDDING]
    build(checkpoint)
    return checkpoint


def _moved_symbols(folder: Path, rows: int) -> list[int] | None:
    """Ids of the special symbols where some were added to the tokenizer, so that <mask> is not the last; else None."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        return None
    special = special_of(folder, tokenizer, rows)
    return None if special == [*range(len(SPECIALS)), rows - 1] else special


def write_tokenizer(folder: Path, target: Path, force: bool = False) -> None:
    """Write dict.txt and the tokenizer's files, which fairseq needs beside a model, from a folder of transformers."""
    config = read_json(encoder_folder(folder) / "config.json")
    ours = config["model_type"] == LinformerConfig.model_type and "special" not in (config.get("fairseq") or {})
    # What transformers saves again has no dict.txt, and no symbol of it was added where <mask> is still the last.
    if ours and (folder / DICTIONARY).is_file() and not _moved_symbols(folder, config["vocab_size"]):
        _copy_tokenizer(folder, target, force)
    else:
        keep(folder, target, force)


def _copy_tokenizer(folder: Path, target: Path, force: bool = False) -> None:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            with replace_when_done(target / name, force) as partial:
                shutil.copyfile(folder / name, partial)


def _read_config(folder: Path) -> LinformerConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a folder that to-hf or save_pretrained has written")
    content = read_json(path)
    if (kind := content.get("model_type")) != LinformerConfig.model_type:
        raise UsageError(f"{path}: describes a model of type {kind}, not a Linformer")
    try:
        return LinformerConfig.from_dict(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not the configuration of a Linformer ({error})") from error


def _fairseq_settings(config: LinformerConfig, stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of the fairseq model: those that it had, where the configuration still has the same."""
    keys, settings = option_names("hf"), option_names("fairseq")
    pairs = {settings[ours]: key for ours, key in keys.items() if ours in settings} | _HEAD_SETTINGS
    found = {name: getattr(config, key) for name, key in pairs.items()}
    k = config.projected_length
    found["projected_length"] = str(k) if isinstance(k, int) else ",".join(map(str, k))
    found["untie_weights_roberta"] = not config.tie_word_embeddings
    if not stored:
        return {"_name": MODEL, **found}
    had = vars(complete_settings(stored))
    had["projected_length"] = str(had["projected_length"]).replace(" ", "")
    return stored | {key: value for key, value in found.items() if had.get(key) != value}
