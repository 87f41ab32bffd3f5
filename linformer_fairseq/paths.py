"""Where this project's files are, in a clone and in an installed wheel."""

from pathlib import Path

USER_DIR = Path(__file__).resolve().parent  # what fairseq's --user-dir takes
CLONE = USER_DIR.parent if (USER_DIR.parent / "setup.py").is_file() else None  # the clone with this package, if any
# The YAML recipes and the sbatch scripts, which the wheel holds inside the package
RECIPES = (CLONE or USER_DIR) / "recipes"
SLURM = (CLONE or USER_DIR) / "slurm"
