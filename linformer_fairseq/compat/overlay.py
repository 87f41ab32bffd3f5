"""A module seen with some of its names replaced, and the names that NumPy has removed."""

from types import ModuleType

import fairseq.modules.dynamic_crf_layer
import numpy as np


class Overlay(ModuleType):
    """Stands in for `module` in the namespace of one other module, and leaves every other user of it alone."""

    def __init__(self, module: ModuleType, **names: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


def restore_removed_numpy_names() -> None:
    """Give `np.float`, removed in NumPy 1.24, back to the one file of fairseq that needs it to score targets by a CRF.

    `np.int` is not restored: fairseq uses it for span masks without overlap, in functions that also call
    `Generator.randint`, which never existed.
    """
    if not hasattr(np, "float"):
        fairseq.modules.dynamic_crf_layer.np = Overlay(np, float=float)
