"""Makes `fairseq-hydra-train` import `common.user_dir` before it starts processes, as `fairseq-train` does.

Hydra imports every module of the namespace package `hydra_plugins` when it starts; fairseq offers no hook of its own
at that point. Without this, a user-dir cannot have a say in how the processes of a training are started. Any user-dir
profits, and programs other than fairseq's are left alone.
"""

import sys
from typing import Any

fairseq_distributed: Any = sys.modules.get("fairseq.distributed.utils")

if fairseq_distributed is not None:
    from fairseq.utils import import_user_module

    earlier_call_main = fairseq_distributed.call_main

    def call_main(cfg: Any, main: Any, **kwargs: Any) -> Any:
        """Import the user-dir, then go on with the `call_main` that it has left behind."""
        import_user_module(cfg.common)
        current = fairseq_distributed.call_main
        return (earlier_call_main if current is call_main else current)(cfg, main, **kwargs)

    fairseq_distributed.call_main = call_main
