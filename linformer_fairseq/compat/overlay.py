"""A module seen with some of its names replaced."""

from types import ModuleType


class Overlay(ModuleType):
    """Stands in for `module` in the namespace of a single other module.

    `fairseq.modules.dynamic_crf_layer.np = Overlay(numpy, float=float)` gives that file its `np.float` back and leaves
    NumPy, and every other user of NumPy, alone.
    """

    def __init__(self, module: ModuleType, **names: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)
