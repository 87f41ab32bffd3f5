"""Fine-tuning on GLUE: `linformer glue`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("glue")
