"""From raw text to fairseq training data, in stages that can be stopped and started again.

    python -m data_prep extract --source books my_books/ --out corpus    text  -> corpus/*.parquet
    python -m data_prep tokenizer corpus --out tokenizer                 sentencepiece.model, dict.txt
    python -m data_prep binarize corpus --tokenizer tokenizer --out data train and valid .bin/.idx

Read ``corpus.py`` first: it says what a document is. Then one module per stage, named like its command.
This package knows no model: its output is what ``fairseq-train`` reads.
"""

import logging

# On import, this module of fairseq asks everybody to install a package that only speech needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
