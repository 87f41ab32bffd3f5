"""What every command that can be killed and resumed shares. It imports neither torch nor fairseq.

files.py     written atomically: whole under their name, or not there
locks.py     one process at a time in a folder
records.py   what a folder was made with, and a refusal where that has changed
shards.py    work that many processes and Slurm tasks share through a folder, without a coordinator
pool.py      the worker processes of one task
processes.py names of processes that no other one has, and programs that end with their parent
"""
