"""Checkpoints: load what fairseq writes, and nothing that could run code.

Since PyTorch 2.6 `torch.load` unpickles only tensors and plain values unless told otherwise, and fairseq stores an
`argparse.Namespace` in almost every checkpoint.
"""

import ast
import pickle
import re
import zipfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.logging import meters
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from omegaconf import DictConfig, ListConfig, OmegaConf, nodes
from omegaconf.base import ContainerMetadata, Metadata

from linformer_fairseq.compat import Function, replaces
from linformer_fairseq.errors import UsageError

_numpy_scalar: Any = np.float64(0).__reduce__()[0]
# All of these are plain data: creating one and setting its attributes runs no other code.
_ALLOWED: list[Any] = [
    Namespace,  # `args` before 2021; today inside `cfg`, for every part without a config dataclass
    # The configuration that rank 0 has loaded and sends to the others; also `cfg` in some files of 2021.
    *(DictConfig, ListConfig, ContainerMetadata, Metadata, nodes.AnyNode, nodes.StringNode),
    *(nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode, nodes.BytesNode, nodes.PathNode),
    *(Any, dict, list, tuple, int, float, str, bool, defaultdict, _TensorPlaceholder),
    # A validation loss or best score that a metric computed with NumPy, also before NumPy 2.
    *(_numpy_scalar, (_numpy_scalar, "numpy.core.multiarray.scalar")),
    *(np.dtype, np.dtypes.BoolDType, np.dtypes.Int32DType, np.dtypes.Int64DType),
    *(np.dtypes.Float16DType, np.dtypes.Float32DType, np.dtypes.Float64DType),
    # Running averages, which checkpoints of 2019 hold as objects; the first module name is that of the time.
    *(
        (meter, f"fairseq.{module}.{meter.__name__}")
        for module in ("meters", "logging.meters")
        for meter in (meters.AverageMeter, meters.TimeMeter, meters.StopwatchMeter)
    ),
]

# What a file may choose where fairseq builds all that a file names. Others pass settings of theirs to `eval`, import
# what a setting names, start programs or write files. Of architectures, those of these models.
_MODELS = ("linformer_roberta", "roberta")
_TASKS = ("masked_lm", "multilingual_masked_lm", "sentence_prediction", "streaming_masked_lm", "text_pairs")
_CRITERIONS = ("masked_lm", "fused_masked_lm", "distillation", "cross_entropy", "sentence_prediction", "contrastive")
EVALUATED = {"xformers_att_config", "adam_betas", "adamax_betas", "adafactor_eps", "lamb_betas"}
_building = ContextVar("_building", default=False)


def read_safely() -> None:
    """Let fairseq read files through `load`, and with `torch.load` what one process receives from another."""
    checkpoint_utils.torch = SimpleNamespace(**vars(torch) | {"load": load})
    torch.serialization.add_safe_globals(_ALLOWED)


@replaces(checkpoint_utils, "load_model_ensemble_and_task")
def build_from_file(fairseq: Function, *arguments: Any, **named: Any) -> Any:
    """What a file has built, as in `fairseq-validate --path` and `from_pretrained`, must be of a known kind."""
    token = _building.set(True)
    try:
        return fairseq(*arguments, **named)
    finally:
        _building.reset(token)


@replaces(checkpoint_utils, "load_checkpoint_to_cpu")
def load_file(fairseq: Function, path: str, *others: Any, **named: Any) -> Any:
    """The content of a file; a UsageError if it shall be built and is not of a known kind."""
    state = fairseq(path, *others, **named)
    if _building.get():
        cfg = state.get("cfg") or {}
        _refuse_foreign_kinds(path, cfg)
        refuse_larger(path, _settings(cfg["model"]), state["model"])
    return state


def _refuse_foreign_kinds(path: str, cfg: Any) -> None:
    """A UsageError for a file whose model, task or criterion is not of the kinds above, by any of fairseq's names."""
    models = {arch for arch, model in ARCH_MODEL_NAME_REGISTRY.items() if model in _MODELS}
    kinds = (("model", "arch", models), ("task", "task", _TASKS), ("criterion", "criterion", _CRITERIONS))
    for section, other_key, allowed in kinds:
        settings = _settings(cfg.get(section))
        if settings is None and section == "criterion":
            continue
        # An old Namespace has the settings of everything; in others, a name may stand at either place.
        given = [settings.get("_name"), settings.get(other_key)] if isinstance(settings, Mapping) else [settings]
        names = [str(name) for name in given if name is not None] or ["None"]
        if wrong := [name for name in names if name not in allowed]:
            raise UsageError(
                f"{path} was not loaded, because it asks for the {section} {wrong[0]}, which a file may not choose: "
                "fairseq might run code that stands in its settings; load models of this project and RoBERTas"
            )


def _settings(section: Any) -> Any:
    """A section of the settings as plain values, if it is one in any of fairseq's forms; nothing is resolved."""
    section = OmegaConf.to_container(section, resolve=False) if OmegaConf.is_config(section) else section
    return vars(section) if isinstance(section, Namespace) else section


def refuse_larger(path: object, model: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise a UsageError for settings of a model that is larger than its parameters, before memory is taken for it."""
    names = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "max_positions", "local_conv")
    layers, width, inner, positions, kernel = (
        value if isinstance(value := model.get(name), int | float) else 0 for name in names
    )
    there = sum(tensor.numel() for tensor in state.values() if isinstance(tensor, torch.Tensor))
    needed = layers * width * (4 * width + 2 * inner + kernel) + positions * width
    if layers > len(state) or max(needed, inner, kernel, positions) > there:
        given = ", ".join(f"{name} {model[name]}" for name in names if model.get(name))
        raise UsageError(f"{path}: its {there:,} parameters do not fit its settings ({given}); take a whole checkpoint")


def load(file: IO[bytes], **options: Any) -> Any:
    """`torch.load` of an open checkpoint with `weights_only` on, whatever the environment says.

    UsageError if it asks for a class or function that fairseq never writes, is not a whole checkpoint, or has settings
    that would run code or read the environment.
    """
    name = getattr(file, "name", "the checkpoint")
    try:
        if zipfile.is_zipfile(file):  # PyTorch stores checksums of its parts and does not look at them
            with zipfile.ZipFile(file) as archive:
                if bad := archive.testzip():
                    raise zipfile.BadZipFile(f"its part {bad} is not what was written")
        file.seek(0)
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(file, **{**options, "weights_only": True})
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise
        raise UsageError(_reason(name, error)) from None
    if isinstance(content, Mapping):
        for key, value in _strings([content.get("cfg"), content.get("args")]):
            if re.search(r"\$\{.*:", value, re.DOTALL) or (key in EVALUATED and not is_literal(value)):
                raise UsageError(
                    f"{name} was not loaded, because its setting {key} is {value[:60]!r}, which fairseq would compute: "
                    "save it again with a plain value there, if you made it yourself"
                )
    return content


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings in settings, at any depth, each with the key that it stands under; nothing is resolved."""
    value = _settings(value)
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner, key)


def is_literal(value: str) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _reason(name: str, error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and foreign:
        return (
            f"{name} was not loaded, because it asks for {foreign[1]}, which fairseq never writes and which might "
            "run foreign code: take the checkpoint from a source you trust, or, if you made it yourself, load it "
            "once with torch.load(..., weights_only=False), replace that object with a plain value and save it again"
        )
    detail = ": ".join(filter(None, [type(error).__name__, str(error).strip().split("\n")[-1]]))
    return (
        f"{name} is not a whole checkpoint, perhaps because the program was stopped or the disk was full while it was "
        f"written ({detail}): delete it, or start from another one with --finetune-from-model"
    )
