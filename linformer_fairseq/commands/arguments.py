"""What the parsers of all subcommands share."""

import argparse
from typing import Any


def command_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser of `linformer NAME` whose description keeps its line breaks."""
    return argparse.ArgumentParser(
        prog=f"linformer {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
