"""Figure 3 of the paper at small scale: validation perplexity of Linformer beside exact attention and controls.

    python recipes/reproduce/figure3_perplexity.py DATA --out RUN --parallel 2 --report docs/benchmarks/figure3

Every variant is the recipe `tiny_n512_k128` with one change, trained by the real fairseq-train on one CPU thread with
the same data, order and masks. Minutes are processor minutes of one core.
"""

from typing import Any

from linformer_fairseq.measuring.trainings import Ladder

ROBERTA = {"_name": "roberta", "encoder_layers": 2, "encoder_embed_dim": 128, "encoder_ffn_embed_dim": 512}
ROBERTA |= {"encoder_attention_heads": 4, "max_positions": 512, "dropout": 0.0, "attention_dropout": 0.0}
# Settings that differ from the recipe, whose local convolution is 9 wide.
VARIANTS: dict[str, dict[str, Any]] = {
    "Linformer + local conv": {},
    "adaptive + local conv": {"model.projection": "adaptive"},
    "adaptive, window of 16 + local conv": {"model.projection": "adaptive", "model.local_window": 16},
    "exact attention + local conv": {"model.attention": "exact"},
    "no attention + local conv": {"model.attention": "none"},
    "Linformer": {"model.local_conv": 0},
    "exact attention": {"model.attention": "exact", "model.local_conv": 0},
    "fairseq's roberta": {"model": ROBERTA},
    "no attention": {"model.attention": "none", "model.local_conv": 0},
}
LADDER = Ladder(VARIANTS, lambda name: ":" if "no attention" in name else "-" if "Linformer" in name else "--")
MEASUREMENT = LADDER.measurement(__file__, __doc__)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
