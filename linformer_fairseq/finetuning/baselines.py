"""What a model must beat: the majority class, and a linear model of TF-IDF features, on the same rows and metrics."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from linformer_fairseq.finetuning.glue import score
from linformer_fairseq.finetuning.train import Run, targets
from linformer_fairseq.io.shards import Done, Shard
from linformer_fairseq.tables import Table


def baseline_shard(run: Run) -> Shard:
    """The work of `linear`, once for all runs with the same rows, classes and metrics."""
    settings = [run.task, {name: table.digest() for name, table in run.tables.items()}, run.labels.classes, run.metrics]
    return Shard(f"linear-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}", (run,))


def linear(run: Run) -> Done:
    """Scores by evaluation of logistic regression, for scores ridge regression, on TF-IDF of words and pairs.

    Both with scikit-learn's defaults; nothing is tuned. Texts are whole, and a column has its own features.
    """
    train = run.tables["train"]
    vectorizers = [TfidfVectorizer(ngram_range=(1, 2)) for _ in train.texts[0]]
    for vectorizer, texts in zip(vectorizers, zip(*train.texts, strict=True), strict=True):
        # Punctuation alone, or letters alone, are no words to scikit-learn: then characters are.
        try:
            vectorizer.fit(texts)
        except ValueError:
            vectorizer.set_params(analyzer="char").fit(texts)

    def features(table: Table) -> Any:
        columns = zip(vectorizers, zip(*table.texts, strict=True), strict=True)
        return scipy.sparse.hstack([vectorizer.transform(texts) for vectorizer, texts in columns]).tocsr()

    wanted = {name: targets(table, run.labels) for name, table in run.tables.items()}
    model = LogisticRegression(max_iter=1000) if run.labels.classes else Ridge()
    if len(set(wanted["train"])) > 1:
        model.fit(features(train), wanted["train"])
    scores = {}
    for name, table in run.tables.items():
        if name != "train":
            found = model.predict(features(table)) if hasattr(model, "coef_") else [wanted["train"][0]] * len(table)
            scores[name] = {metric: score(metric, wanted[name], found) for metric in run.metrics}
    return Done(scores)
