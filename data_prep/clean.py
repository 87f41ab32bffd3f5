"""The stage `clean`: repairs the text of each document, and drops documents that break a rule."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.corpus import Document
from data_prep.filters import Verdict, dropped, filter_corpus, filter_file
from data_prep.text import rules
from linformer_fairseq.io.shards import Done


def clean(corpus: Path, out: Path, config: rules.CleanConfig, workers: int = 1) -> dict[str, Any]:
    """Write the cleaned corpus; returns the record of the stage."""
    return filter_corpus("clean", corpus, out, asdict(config), partial(_clean_file, config=config), workers)


def _clean_file(source: Path, target: Path, config: rules.CleanConfig) -> Done:
    def judge(_: int, document: Document) -> Verdict:
        cleaned = rules.clean(document.text, config)
        if cleaned.dropped is not None:
            return dropped(cleaned.dropped)
        return Verdict(replace(document, text=cleaned.text), cleaned.removed)

    return filter_file(source, target, judge)
