"""Names that NumPy has removed and fairseq still uses."""

import fairseq.data.data_utils
import fairseq.modules.dynamic_crf_layer
import numpy as np

from linformer_fairseq.compat.overlay import Overlay


def restore_removed_names() -> None:
    """Give `np.int` and `np.float` back to the two files that use them.

    NumPy 1.24 removed both. fairseq needs them for span masks without overlap (`compute_mask_indices` and
    `compute_mask_indices_v3`) and for CRF decoding. They stay unknown everywhere else, so that no other code can
    come to rely on them.
    """
    if not hasattr(np, "int"):
        fairseq.data.data_utils.np = Overlay(np, int=int)
    if not hasattr(np, "float"):
        fairseq.modules.dynamic_crf_layer.np = Overlay(np, float=float)
