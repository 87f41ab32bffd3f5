"""The stage `clean`: repairs the text of each document, and drops documents that break a rule."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.corpus import Document
from data_prep.filters import Dropped, Shortened, Verdict, filter_corpus, filter_file
from data_prep.text.rules import CleanConfig
from data_prep.text.rules import clean as clean_text
from linformer_fairseq.io.shards import Done


def clean(corpus: Path, out: Path, config: CleanConfig, workers: int = 1) -> dict[str, Any]:
    """Write the cleaned corpus; returns the record of the stage."""
    return filter_corpus("clean", corpus, out, asdict(config), partial(_clean_file, config=config), workers)


def _clean_file(source: Path, target: Path, config: CleanConfig) -> Done:
    def judge(_: int, document: Document) -> Verdict:
        cleaned = clean_text(document.text, config)
        if cleaned.dropped is not None:
            return Dropped(cleaned.dropped)
        return Shortened(replace(document, text=cleaned.text), cleaned.removed)

    return filter_file(source, target, judge)
