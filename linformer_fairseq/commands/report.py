"""A page about training runs that a browser opens without network, also while they go on.

linformer report RUN --out report.html
linformer report RUN OTHER_RUN GLUE_DIR --out comparison.html
"""

from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.ranges import whole


def main(argv: Sequence[str]) -> int:
    """The command line."""
    parser = command_parser("report", __doc__)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="--save-dir of a run, or folder of fine-tunings")
    add("--out", type=Path, required=True, metavar="FILE", help="the page, replaced if it exists")
    add("--samples", type=whole(0, 1000), default=4, metavar="N", help="validation samples (default: %(default)s)")
    add("--sentence", metavar="TEXT", help="whose attention is shown (default: of the first sample)")
    a = parser.parse_args(argv)
    from linformer_fairseq.reporting.report import write_report

    write_report(a.runs, a.out, a.samples, a.sentence)
    return 0
