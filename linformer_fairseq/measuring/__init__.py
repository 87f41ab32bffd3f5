"""What the scripts in recipes/reproduce and recipes/measure share. Read study.py first.

study.py             flags, cells that are kept, machine and versions, results.json, Markdown
plots.py             lines over updates, tokens or lengths
trainings.py         short trainings of the tiny recipe, and their perplexity
official_example.py  fairseq's own Linformer
layers.py, layer_cost.py, timed_train.py, anatomy.py     parts of table3_efficiency.py and update_speed.py
"""
