"""Texts to vectors or scores in batches of like length; fine-tuning and encode.py score alike."""
