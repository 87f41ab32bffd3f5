"""Fine-tuning, from a table of texts and labels to a table of results. Read `tables.py` first."""
