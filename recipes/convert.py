"""Checkpoints from and to other forms: `linformer convert`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("convert")
