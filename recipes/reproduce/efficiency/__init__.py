"""The benchmark of one encoder layer beside all others: paper Table 3, measured anew. Read `contestants.py` first."""
