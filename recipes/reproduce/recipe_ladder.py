"""What each lever of the training recipe is worth: validation perplexity at equal tokens and equal processor minutes.

    python recipes/reproduce/recipe_ladder.py DATA --updates 2450 --out RUN --report docs/benchmarks/ladder

Every variant is the recipe `tiny_n512_k128` with the changes that its name says, trained by the real fairseq-train on
one CPU thread with the same data; a row has 512 tokens. All use the streaming task, which validates with 15 % masks at
every rate, and predicts no special symbols: in fairseq's `masked_lm` these are 1.8 % of the targets here and easy, so
that the same model has a perplexity of 76.8 there and of 80.7 here. Learning rate and batch are tuned for each
optimizer by itself.
"""

from itertools import product
from typing import Any

from linformer_fairseq.measuring.trainings import BATCH, ROWS, Ladder

MASKS = {"task.mask_prob": 0.4}
VECTORS = {"optimizer.muon_vector_lr_scale": 3.0}
ADAPTIVE = {"model.projection": "adaptive"}
LEVERS: dict[str, dict[str, Any]] = {
    "masks 0.3": {"task.mask_prob": 0.3},
    "masks 0.4": MASKS,
    "masks 0.4, vectors x 3": MASKS | VECTORS,
    "masks 0.4, vectors x 3, adaptive": MASKS | VECTORS | ADAPTIVE,
    "masks 0.4, vectors x 3, window of 16": MASKS | VECTORS | ADAPTIVE | {"model.local_window": 16},
    "masks 0.4, vectors x 3, exact attention": MASKS | VECTORS | {"model.attention": "exact"},
    "masks 0.4, vectors x 3, no attention": MASKS | VECTORS | {"model.attention": "none"},
    "stable schedule": {"lr_scheduler._name": "warmup_stable_decay"},
    "no decay of weights": {"optimizer.weight_decay": 0.0},
}


def variant(optimizer: str, lr: float, rows: int, lever: str = "") -> tuple[str, dict[str, Any]]:
    """Name and settings."""
    name = f"{optimizer}, lr {lr:g}, {rows} rows" + (f", {lever}" if lever else "")
    own = {"optimizer._name": optimizer, "optimization.lr": [lr], BATCH: rows, "task._name": "streaming_masked_lm"}
    if optimizer != "adam":
        own["criterion._name"] = "fused_masked_lm"  # the same loss in less time; that of Adam is the recipe's
    return name, own | LEVERS.get(lever, {})


# First the recipe, then rates and batches of both optimizers, then levers.
RATES = {"adam": (1e-3, 2e-3, 4e-3, 8e-3), "muon": (2e-3, 4e-3, 6e-3, 8e-3)}
VARIANTS = dict(
    [variant("adam", 2e-3, ROWS)]
    + [variant(name, lr, rows) for name in RATES for lr, rows in product(RATES[name], (8, 4, 2))]
    + [variant("adam", lr, rows, f"masks {share}") for share in (0.3, 0.4) for lr, rows in ((2e-3, 4), (4e-3, 8))]
    + [variant("muon", lr, rows, lever) for lr, rows, lever in product(RATES["muon"], (8, 4), LEVERS)]
)
LADDER = Ladder(VARIANTS, lambda name: "-" if name.startswith("muon") else "--")
MEASUREMENT = LADDER.measurement(__file__, __doc__)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
