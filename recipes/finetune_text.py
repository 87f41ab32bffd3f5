"""Fine-tuning on any labelled table: `linformer finetune`, from a clone."""

from recipe import run

if __name__ == "__main__":
    run("finetune")
