"""What each lever of the training recipe is worth: validation perplexity at equal tokens and equal processor minutes.

    python recipes/reproduce/recipe_ladder.py DATA --updates 2450 --out RUN --report docs/benchmarks/ladder

Every variant is the recipe `tiny_n512_k128` with the changes that its name says, trained by the real fairseq-train on
one CPU thread with the same data; a row has 512 tokens. Validation always masks 15 % of the tokens. Learning rate and
batch are tuned for each optimizer by itself.
"""

import sys
from itertools import product
from typing import Any

from linformer_fairseq.measuring.ladder import BATCH, ROWS, Ladder

STREAMING = {"task._name": "streaming_masked_lm"}
WINDOW = {"model.projection": "adaptive", "model.local_window": 16}
LEVERS: dict[str, dict[str, Any]] = {
    "streaming": STREAMING,
    "masks 0.3": STREAMING | {"task.mask_prob": 0.3},
    "masks 0.4": STREAMING | {"task.mask_prob": 0.4},
    "window of 16": WINDOW,
    "masks 0.4, window of 16": STREAMING | {"task.mask_prob": 0.4} | WINDOW,
    "stable schedule": {"lr_scheduler._name": "warmup_stable_decay"},
    "no decay of weights": {"optimizer.weight_decay": 0.0},
}


def variant(optimizer: str, lr: float, rows: int, lever: str = "") -> tuple[str, dict[str, Any]]:
    """Name and settings."""
    name = f"{optimizer}, lr {lr:g}, {rows} rows" + (f", {lever}" if lever else "")
    return name, {"optimizer._name": optimizer, "optimization.lr": [lr], BATCH: rows, **LEVERS.get(lever, {})}


# First the recipe, then rates and batches of both optimizers, then levers at the best of these.
RATES = {"adam": (1e-3, 2e-3, 4e-3, 8e-3), "muon": (2e-3, 4e-3, 6e-3, 8e-3)}
VARIANTS = dict(
    [variant("adam", 2e-3, ROWS)]
    + [variant(name, lr, rows) for name in RATES for lr, rows in product(RATES[name], (8, 4, 2))]
    + [variant("adam", 4e-3, 8, "masks 0.3")]
    + [variant("muon", lr, 8, lever) for lr in RATES["muon"] for lever in LEVERS]
)
LADDER = Ladder(VARIANTS, lambda name: "-" if name.startswith("muon") else "--")
MEASUREMENT = LADDER.measurement(__file__, __doc__)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
