"""Fine-tuning, from labelled tables to a table of results. Read `train.py` first."""

LEARNING_RATE, BATCH_SIZE, EPOCHS, WARM_UP = 1e-4, 32, 3, 0.06
OF_CLASSES = ("accuracy", "f1", "macro-f1", "micro-f1", "precision", "recall", "matthews", "auc")
OF_SCORES = ("pearson", "spearman")
METRICS = (*OF_CLASSES, *OF_SCORES)
OF_PAIRS = ("ndcg@10", "recall@10", "recall@100")  # see `retrieval.scored`
"""Defaults and choices; they stand here so that `--help` need not import PyTorch."""
