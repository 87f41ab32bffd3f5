"""From raw text to fairseq training data, in stages that can be stopped and resumed.

    python -m data_prep extract --source books my_books/ --out corpus    text  -> corpus/*.parquet
    python -m data_prep split corpus --out split                         train/, valid/, test/
    python -m data_prep tokenizer split/train --out tokenizer            sentencepiece.model, dict.txt
    python -m data_prep binarize split --tokenizer tokenizer --out data  train and valid .bin/.idx

Read `corpus.py` first: it says what a document is. Each stage is a module with the name of its command. This package
knows no model: its output is what `fairseq-train` reads.
"""
