"""Fit a converted model to the exact one that it was made from, on unlabelled text: layer by layer, and the mean vector
of each text (criterion `distillation`). Runs fairseq-train; the same command resumes a stopped run.

    linformer convert from-bert MODEL teacher.pt --attention exact
    linformer convert from-bert MODEL student.pt --projection adaptive --projected-length 128
    linformer prepare tokenizer --import teacher.tokenizer --out TOKENIZER     (then binarize the text with it)
    linformer distill teacher.pt student.pt DATA --save-dir RUN
"""

from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import at_dashes, command_parser
from linformer_fairseq.commands.train import become
from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import RECIPES

RECIPE = RECIPES / "finetune/distillation.yaml"


def main(argv: Sequence[str]) -> int:
    """The command line; the process becomes fairseq-train."""
    own, more = at_dashes(argv)
    parser = command_parser(
        "distill",
        __doc__,
        usage="%(prog)s [-h] --save-dir DIR [--recipe RECIPE] [--dry-run] TEACHER STUDENT DATA [-- MORE FAIRSEQ FLAGS]",
        epilog="Flags after -- win over the recipe, for example: -- --max-update 600 --lr 1e-4",
    )
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="checkpoint with exact attention")
    parser.add_argument("student", metavar="STUDENT", type=Path, help="checkpoint of the same model, to be trained")
    parser.add_argument("data", metavar="DATA", help="folder written by `linformer prepare binarize`")
    parser.add_argument("--save-dir", type=Path, metavar="DIR", required=True, help="folder for checkpoints")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="YAML file (default: finetune/distillation.yaml)")
    parser.add_argument("--dry-run", action="store_true", help="only print the command of fairseq-train")
    a = parser.parse_args(own)

    from linformer_fairseq.checkpoints.checkpoint import encoder_config, read, trained_settings
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.training.recipe import fairseq_train_argv

    a.teacher, a.student = (as_file(getattr(a, name), a.save_dir / name) for name in ("teacher", "student"))
    teacher, student = read(a.teacher), read(a.student)
    if (kind := encoder_config(teacher).attention) != "exact":
        raise UsageError(f"TEACHER {a.teacher} has --attention {kind}; convert the model with --attention exact")
    length = encoder_config(student).max_positions
    overrides = {
        "model": trained_settings(student),
        "task.tokens_per_sample": length,
        "criterion.teacher": str(a.teacher.resolve()),
        "checkpoint.finetune_from_model": str(a.student.resolve()),
    }
    return become(fairseq_train_argv(a.recipe, a.data, a.save_dir, overrides, more), a.dry_run)
