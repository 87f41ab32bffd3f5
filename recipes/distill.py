"""A converted model is fitted to its exact original: `linformer distill`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("distill")
