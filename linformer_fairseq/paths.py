"""Where the package's files are, in a clone and in an installed wheel."""

from pathlib import Path

USER_DIR = Path(__file__).resolve().parent
"""What fairseq's --user-dir takes."""

CLONE = USER_DIR.parent
"""The clone that this package is part of; in an installation, site-packages."""

RECIPES = USER_DIR / "recipes" if (USER_DIR / "recipes").is_dir() else CLONE / "recipes"
"""The YAML recipes: they are copied into the wheel, and stand beside the package in a clone."""
