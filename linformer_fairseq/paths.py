"""Where this project's files are, in a clone and in an installed wheel."""

from pathlib import Path

USER_DIR = Path(__file__).resolve().parent
"""What fairseq's --user-dir takes."""

CLONE = USER_DIR.parent if (USER_DIR.parent / "setup.py").is_file() else None
"""The clone that this package is part of, if it is part of one."""

RECIPES = (CLONE or USER_DIR) / "recipes"
"""The YAML recipes, which the wheel holds inside the package."""

SLURM = (CLONE or USER_DIR) / "slurm"
"""The sbatch scripts, likewise."""
