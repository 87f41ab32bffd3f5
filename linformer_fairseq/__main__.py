"""`python -m linformer_fairseq`: where the user-dir is and what this machine offers."""

import argparse
import json
import sys
from collections.abc import Sequence

from linformer_fairseq.environment import USER_DIR, environment_report

DESCRIPTION = """\
Print the folder to give to fairseq's --user-dir, and a report on this machine: versions, CPU, GPUs, apex,
Slurm. Exits with 1 if something needs repair; each problem comes with its remedy."""

EPILOG = """\
example:
  fairseq-train DATA --user-dir "$(python -m linformer_fairseq --path)" --arch linformer_roberta_base ..."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m linformer_fairseq",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--path", action="store_true", help="print only the folder for --user-dir")
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)

    if arguments.path:
        print(USER_DIR)
        return 0
    report = environment_report()
    print(json.dumps(report.to_json(), indent=2) if arguments.json else report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
