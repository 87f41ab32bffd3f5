"""What a training run does beside fairseq's loop, so that it survives a cluster. Importing this loads nothing.

hooks.py        read first: every function of fairseq that is replaced, in call order, and what is done there
signals.py      the signals that ask a run to save and stop, in each of its processes
interrupt.py    every rank stops after the same update, saves, and leaves with an exit status of its own
saving.py       checkpoints are written in the background, as whole files with checksums (files.py)
resuming.py     one run in a folder, from a whole checkpoint, and none that has ended; --patience goes on counting
recorder.py     figures of each log interval and validation in metrics.jsonl (metrics.py, flops.py, hardware.py)
run_directory.py   what each start was told, where it ran, and what its processes logged
divergence.py   an end, with the examples named, where the loss is not finite or does not come back
recipe.py, progress.py   a recipe as a command of fairseq-train; running it, and reading its log
"""
