"""`linformer prepare`: the same as `python -m data_prep`."""

from data_prep.__main__ import main

__all__ = ["main"]
