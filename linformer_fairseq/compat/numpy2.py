"""A name that NumPy has removed and fairseq still uses."""

import fairseq.modules.dynamic_crf_layer
import numpy as np

from linformer_fairseq.compat.overlay import Overlay


def restore_removed_names() -> None:
    """Give `np.float`, removed in NumPy 1.24, back to the file that scores targets with a CRF.

    It stays unknown everywhere else, so that no other code can come to rely on it. `np.int` is left as it is: fairseq
    uses it for span masks without overlap, in functions that also call `Generator.randint`, which never existed.
    """
    if not hasattr(np, "float"):
        fairseq.modules.dynamic_crf_layer.np = Overlay(np, float=float)
