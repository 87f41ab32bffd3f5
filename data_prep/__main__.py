"""The command line: ``python -m data_prep STAGE …``; its arguments are in ``cli.py``."""

from __future__ import annotations

import errno
import sys
from concurrent.futures.process import BrokenProcessPool

from data_prep.cli import parser, run_stage
from linformer_fairseq.errors import UsageError

AGAIN = "the same command goes on from here"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; returns the exit status."""
    top = parser()
    arguments, further = top.parse_known_args(argv)
    # argparse takes settings only directly behind CONFIG; people also write them behind --out.
    if arguments.stage == "run" and all("=" in word and not word.startswith("-") for word in further):
        arguments.changes += further
    elif further:
        top.error(f"unrecognized arguments: {' '.join(further)}")
    try:
        run_stage(arguments)
    except UsageError as error:
        return _failed(arguments.stage, str(error))
    except BrokenProcessPool:
        return _failed(
            arguments.stage,
            f"a worker process died, for lack of memory? {AGAIN}, with fewer --workers if need be",
        )
    except OSError as error:
        name = error.filename or getattr(arguments, "out", "")
        if error.errno in _FULL:
            return _failed(arguments.stage, f"{name}: no space left; free some, and {AGAIN}")
        if error.errno in _CLOSED:
            return _failed(arguments.stage, f"{name}: {error.strerror}; give access to it, or choose another --out")
        raise
    except KeyboardInterrupt:
        print(f"\ndata_prep {arguments.stage}: stopped; {AGAIN}", file=sys.stderr)
        return 130
    return 0


def _failed(stage: str, message: str) -> int:
    print(f"data_prep {stage}: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
