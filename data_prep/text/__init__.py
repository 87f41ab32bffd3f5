"""What the stages clean, dedup and decontaminate do to texts: functions of texts alone, no files but one index.

Read ``words.py`` first: it says what a word is in any script, and how words and n-grams become numbers.

    normalize.py   Unicode repaired, invisible characters out
    lines.py       boilerplate lines out
    rules.py       all of `clean`: its settings, and why a document is dropped (C4, Gopher)
    repetition.py  how much of a document repeats itself
    minhash.py     signatures that tell how alike two documents are
    duplicates.py  which documents repeat an earlier one
    benchmarks.py  the dev and test examples of a folder
    ngrams.py      an index that finds those examples in documents
"""
