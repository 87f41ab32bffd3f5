"""The command line: `python -m data_prep STAGE …`."""

import sys
from collections.abc import Sequence
from functools import partial

from data_prep.cli import parse, run_stage
from linformer_fairseq.errors import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status."""
    arguments = parse(argv)
    return exit_status(f"data_prep {arguments.stage}", partial(run_stage, arguments))


if __name__ == "__main__":
    sys.exit(main())
