"""Documents to vectors or predictions: `linformer encode`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("encode")
