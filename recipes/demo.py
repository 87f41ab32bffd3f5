"""A model from nothing in minutes: `linformer demo`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("demo")
