"""What the stages clean, dedup and decontaminate do to texts: functions of texts alone.

Read ``words.py`` first: it defines a word in any script, and how words and n-grams become numbers. ``scripts.py`` has
what differs between scripts. ``rules.py`` and ``normalize.py`` serve `clean`, ``minhash.py`` `dedup`, ``benchmarks.py``
and ``ngrams.py`` `decontaminate`.
"""
