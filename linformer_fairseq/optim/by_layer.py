"""Learning rates that fall from the head to the embeddings (Howard and Ruder 2018), as groups of an optimizer."""

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from torch.nn import Parameter


def by_layer(named: Iterable[tuple[str, Parameter]], lr: float, decay: float) -> list[dict[str, Any]]:
    """Groups of a model's parameters, those of heads first: `params`, `lr`, and `lr_scale`, its multiple of lr.

    That is 1 for heads and the norm before them, `decay` for the last layer, its square for the one below, and so on
    to the embeddings.
    """
    pairs = list(named)[::-1]
    numbers = {name: int(found[1]) + 1 for name, _ in pairs if (found := re.search(r"\.layers\.(\d+)\.", name))}
    head = max(numbers.values(), default=0) + 1

    def scale(pair: tuple[str, Parameter]) -> float:
        below = re.search(r"\.(embed_tokens|embed_positions|layernorm_embedding|E)\.", pair[0])
        return float(decay ** (head - numbers.get(pair[0], 0 if below else head)))

    return [{"params": [p for _, p in own], "lr": lr * x, "lr_scale": x} for x, own in groupby(pairs, scale)]
