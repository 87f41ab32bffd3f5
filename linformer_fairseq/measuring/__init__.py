"""What the scripts in recipes/reproduce and recipes/measure share. Read study.py first.

study.py             flags, cells that are kept, machine and versions, results.json, Markdown
plots.py             lines over updates, tokens or lengths
trainings.py         short trainings of the tiny recipe, their perplexity, and studies of its variants
official_example.py  fairseq's own Linformer
layers.py            what one layer costs, ours and others, for table3_efficiency.py
contestants.py       whole encoders, ours and those of transformers, in PyTorch and ONNX Runtime
"""
