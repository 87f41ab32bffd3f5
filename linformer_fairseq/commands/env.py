"""Print the folder to give to fairseq's --user-dir, and a report on this machine: versions, CPU, GPUs, apex, Slurm.
Exits with 1 if something needs repair; each problem comes with its remedy.

  fairseq-train DATA --user-dir "$(linformer env --path)" --arch linformer_roberta_base ...
"""

import json
from collections.abc import Sequence

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.environment import environment_report, in_words
from linformer_fairseq.paths import USER_DIR


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = command_parser("env", __doc__)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--path", action="store_true", help="print only the folder for --user-dir")
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    a = parser.parse_args(argv)
    if a.path:
        print(USER_DIR)
        return 0
    report = environment_report()
    print(json.dumps(report, indent=2) if a.json else in_words(report))
    return 1 if report["problems"] else 0
