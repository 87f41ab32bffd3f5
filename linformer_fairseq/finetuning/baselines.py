"""What a model must beat: the majority class, and a linear model of TF-IDF features, on the same rows and metrics."""

import hashlib
import json
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from linformer_fairseq.finetuning.labels import targets
from linformer_fairseq.finetuning.train import Run
from linformer_fairseq.io.shards import Done, Shard
from linformer_fairseq.scores import Array, constant, score_logits
from linformer_fairseq.tables import Table


def baseline_shard(run: Run) -> Shard:
    """The work of `linear`, once for all runs with the same rows, classes and metrics."""
    rows = {name: table.digest() for name, table in run.tables.items()}
    settings = [run.task, rows, run.labels.classes, run.labels.several, run.metrics, run.balanced]
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
    classes, y = len(run.labels.classes), wanted["train"]
    given, model = constant(y, classes), None
    if not classes:
        model = Ridge().fit(features(train), y)
    elif len(np.unique(y, axis=0)) > 1:
        model = LogisticRegression(max_iter=1000, class_weight="balanced" if run.balanced else None)
        model = (OneVsRestClassifier(model) if run.labels.several else model).fit(features(train), y)

    def logits(table: Table) -> Array:
        found = np.tile(given, (len(table), 1))
        if model is not None and not classes:
            found[:, 0] = model.predict(features(table))
        elif model is not None:
            scores = model.decision_function(features(table))
            ids = model.classes_.astype(int)
            found[:, ids] = scores if scores.ndim > 1 else np.stack([-scores, scores], 1) / 2
        return found

    found = {name: logits(table) for name, table in run.tables.items() if name != "train"}
    metrics = {name: {m: score_logits(m, wanted[name], found[name]) for m in run.metrics} for name in found}
    return Done(metrics)
