"""Checkpoints: load what fairseq writes, and nothing that could run code.

Since PyTorch 2.6 `torch.load` unpickles only tensors and plain values unless told otherwise, and fairseq stores an
`argparse.Namespace` in almost every checkpoint.
"""

import pickle
import re
from argparse import Namespace
from collections import defaultdict
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.logging import meters
from omegaconf import DictConfig, ListConfig, nodes
from omegaconf.base import ContainerMetadata, Metadata

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


def read_safely() -> None:
    """Let fairseq read files through `load`, and with `torch.load` what one process receives from another."""
    checkpoint_utils.torch = SimpleNamespace(**vars(torch) | {"load": load})
    torch.serialization.add_safe_globals(_ALLOWED)


def load(file: IO[bytes], **options: Any) -> Any:
    """`torch.load` of an open checkpoint with `weights_only` on, whatever the environment says.

    Raises:
        UsageError: the file asks for a class or function that fairseq never writes, or is not a whole checkpoint.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(file, **{**options, "weights_only": True})
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise
        raise UsageError(_reason(getattr(file, "name", "the checkpoint"), error)) from None


def _reason(name: str, error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and foreign:
        return (
            f"{name} was not loaded, because it asks for {foreign[1]}, which fairseq never writes and which might "
            "run foreign code: take the checkpoint from a source you trust, or, if you made it yourself, load it "
            "once with torch.load(..., weights_only=False), replace that object with a plain value and save it again"
        )
    detail = str(error).strip().split("\n")[-1]
    return (
        f"{name} is not a whole checkpoint, perhaps because the program was stopped or the disk was full while it was "
        f"written ({type(error).__name__}{': ' + detail if detail else ''}): delete it, or choose another one with "
        "--restore-file"
    )
