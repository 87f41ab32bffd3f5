"""What a Hugging Face folder has besides its model, kept from one form to the other and back.

A converted model has a folder for its tokenizer, as all of ours do: dict.txt, and for byte-level BPE encoder.json and
vocab.bpe, which fairseq's `--bpe gpt2` reads. In `huggingface/` are the tokenizer as Hugging Face has it, and what
makes the model one of sentence-transformers: the modules behind the encoder, such as pooling, and their settings.
`to-hf` writes these files into its folder again.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from data_prep.encoders import GPT2_MERGES, GPT2_VOCABULARY, HUGGINGFACE, HUGGINGFACE_FAST
from data_prep.fairseq_dict import DICTIONARY, MASK, SPECIALS
from linformer_fairseq.checkpoints.checkpoint import FINE_TUNED
from linformer_fairseq.checkpoints.files import read_json
from linformer_fairseq.checkpoints.hf_vocabulary import VOCABULARIES, has_tokenizer, load_auto, special_of, symbols_of
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import check_target, replace_when_done, write_text

MODULES = "modules.json"  # of sentence-transformers: the encoder, and what follows it
KEPT_MODULES = ("Transformer", "Pooling", "Normalize", "Dense")  # of the library's own; the first is the encoder
LONGEST = "max_seq_length"  # in LENGTH: texts are cut there
LENGTH = "sentence_bert_config.json"
SETTINGS = "tokenizer_config.json"
_MODES = {"mean_tokens": "mean", "cls_token": "first"}  # of Pooling, behind `pooling_mode_`
_POOLINGS = {**_MODES, "mean": "mean", "cls": "first"}  # the others since version 6 of the library
MERGES = "merges.txt"


def encoder_folder(folder: Path) -> Path:
    """The folder with config.json: that of the first module in one of sentence-transformers, else the same.

    Raises:
        UsageError: a link leads out of the folder, or a module is of a kind that is not carried over.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":  # of Hugging Face's cache, where files are links into the folder of the model
        root = root.parent.parent
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UsageError(f"{path}: is a link out of the folder; put the file itself there")
    first = [module["path"] for module in _modules(folder)[:1]]
    return folder.joinpath(*first)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The modules of sentence-transformers, the encoder first; none in a folder without."""
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = [str(module["type"]) for module in modules]
        inside = [folder.joinpath(module["path"]).resolve().is_relative_to(folder.resolve()) for module in modules]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path}: not a list of modules ({type(error).__name__}: {error})") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers.") or kind.split(".")[-1] not in KEPT_MODULES:
            known = ", ".join(KEPT_MODULES[1:])
            raise UsageError(f"{path}: the module {kind} cannot be kept, only {known}; remove it to convert the others")
    if not kinds or not kinds[0].endswith(f".{KEPT_MODULES[0]}") or not all(inside):
        raise UsageError(f"{path}: its first module must be a Transformer, and all must be in this folder")
    for file in (file for module in modules[1:] for file in folder.joinpath(module["path"]).glob("*")):
        if file.suffix not in (".json", ".safetensors"):
            raise UsageError(f"{file}: only .json and .safetensors files of a module are kept; save it again so")
    return list(modules)


def keep(folder: Path, out: Path, force: bool = False) -> None:
    """Write a tokenizer's folder for the model in `folder`, one of Hugging Face's or one that `to-hf` wrote."""
    source = encoder_folder(folder)
    if not has_tokenizer(source):
        raise UsageError(f"{folder}: holds no tokenizer (tokenizer.json, vocab.txt, or vocab.json and merges.txt)")
    config = read_json(source / "config.json")
    kept = load_auto(source)
    tokenizer = kept.backend_tokenizer
    ids = tokenizer.get_vocab()
    size = int(config.get("vocab_size") or max(ids.values()) + 1)
    symbols = symbols_of(tokenizer, special_of(folder, tokenizer, size), size)
    content = {DICTIONARY: "".join(f"{symbol} 1\n" for symbol in symbols)}
    parts = json.loads(tokenizer.to_str())
    if parts["model"]["type"] == "BPE" and "ByteLevel" in json.dumps(parts["pre_tokenizer"]):
        encoder = {token: i for token, i in ids.items() if token not in (*SPECIALS, MASK)}
        content[GPT2_VOCABULARY] = json.dumps(encoder, ensure_ascii=False)
        content[GPT2_MERGES] = "\n".join(["#version: 0.2", *map(" ".join, parts["model"]["merges"]), ""])
    for name in (*content, HUGGINGFACE):
        check_target(out / name, force)
    with replace_when_done(out / HUGGINGFACE, force) as partial:
        cut, kept.model_max_length = kept.model_max_length, longest_input(config)
        kept.init_kwargs.pop("auto_map", None)  # names code, which the exported folder must not
        kept.save_pretrained(partial)
        # Other programs read the vocabulary in its older forms.
        beside = [source / name for name in (*VOCABULARIES[1:], MERGES)]
        beside += [*source.glob("sentence_*_config.json"), folder / "config_sentence_transformers.json"]
        for path in beside:
            if path.is_file():
                shutil.copyfile(path, partial / path.name)
        if modules := _modules(folder):
            for module in modules[1:]:
                for path in folder.joinpath(module["path"]).glob("*"):
                    (partial / module["path"]).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, partial / module["path"] / path.name)
            modules[0]["path"] = ""
            # Since version 6 of the library, only the tokenizer says where texts are cut.
            if cut < kept.model_max_length:
                for path in [*partial.glob("sentence_*_config.json")] or [partial / LENGTH]:
                    settings = read_json(path) if path.is_file() else {}
                    settings[LONGEST] = settings.get(LONGEST) or cut
                    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            (partial / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    for name, text in content.items():
        write_text(out / name, text)


def kept_pooling(data: Path) -> str | None:
    """As `pooling_of`, of the modules in a tokenizer's folder."""
    return pooling_of(data / HUGGINGFACE)


def pooling_of(folder: Path) -> str | None:
    """How the modules in a folder pool: mean, first, or None without modules; UsageError for others."""
    modules = {str(module["type"]).split(".")[-1]: folder / module["path"] for module in _modules(folder)}
    if not modules:
        return None
    settings = read_json(modules["Pooling"] / "config.json") if "Pooling" in modules else {}
    found = [name.removeprefix("pooling_mode_") for name, value in settings.items() if value is True and "mode" in name]
    found = found or [str(settings.get("pooling_mode"))]
    if "Dense" in modules or len(found) != 1 or found[0] not in _POOLINGS:
        raise UsageError(f"{folder / MODULES}: vectors are trained as means or first tokens, and without layers behind")
    return _POOLINGS[found[0]]


def normalizes(folder: Path) -> bool:
    """Whether the modules in a folder give vectors of length 1."""
    return any(str(module["type"]).endswith(".Normalize") for module in _modules(folder))


def write_modules(folder: Path, channels: int, longest: int, pooling: str | None = None, unit: bool = False) -> None:
    """Write modules of sentence-transformers: means, as `linformer encode`, or `pooling`; `unit`: of length 1."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if unit else {})
    modes = {f"pooling_mode_{name}": ours == (pooling or "mean") for name, ours in _MODES.items()}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    files = {
        MODULES: modules,
        LENGTH: {LONGEST: longest, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": channels, **modes},
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def note_of_head(config: dict[str, Any]) -> dict[str, Any]:
    """The note of what a config.json says a head has learnt: classes, several labels, or a score; empty if nothing."""
    names = config.get("id2label") or {}
    classes = [str(names[key]) for key in sorted(names, key=lambda key: (len(str(key)), str(key)))]
    problem = config.get("problem_type")
    several = problem == "multi_label_classification"
    if problem == "regression" and len(classes) == 1:
        classes = []
    elif not several and classes == [f"LABEL_{i}" for i in range(len(classes))]:
        return {}
    return {"conversion": FINE_TUNED, "classes": classes, "columns": None, "keep": "head", "several": several}


def longest_input(config: dict[str, Any]) -> int:
    """In tokens, of the model that a config.json describes."""
    rows = int(config.get("max_position_embeddings", 512))
    return rows - rows_before_positions(config)


def rows_before_positions(config: dict[str, Any]) -> int:
    """Of a model's position table: RoBERTas number positions from the id of <pad> + 1 on."""
    return 0 if config.get("model_type") in ("bert", "linformer") else int(config.get("pad_token_id", 1)) + 1


def restore(data: Path, out: Path, longest: int) -> None:
    """Write what `data`/huggingface keeps, but for the tokenizer itself, into the folder of an exported model.

    `longest` is the longest input of the model, which becomes that of sentence-transformers if conversion changed it.
    """
    kept = data / HUGGINGFACE
    shutil.copytree(kept, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(HUGGINGFACE_FAST, SETTINGS))
    was = read_json(kept / SETTINGS).get("model_max_length")
    for path in out.glob("sentence_*_config.json"):
        settings = read_json(path)
        if longest != was and settings.get(LONGEST):
            path.write_text(json.dumps(settings | {LONGEST: longest}, indent=2) + "\n", encoding="utf-8")
