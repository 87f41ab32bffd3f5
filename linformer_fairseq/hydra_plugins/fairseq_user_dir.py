"""Makes `fairseq-hydra-train` import `common.user_dir` before it starts processes, as `fairseq-train` does.

Hydra imports every module of the namespace package `hydra_plugins` when it starts; fairseq has no hook of its own at
that point. Without this, a user-dir cannot change how the processes of a training run are started. It works for any
user-dir, and does nothing in programs other than fairseq's.
"""

import sys
from typing import Any

fairseq_distributed: Any = sys.modules.get("fairseq.distributed.utils")

if fairseq_distributed is not None:
    from pathlib import Path

    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.utils import import_user_module

    FAIRSEQ = Path(fairseq_distributed.__file__).parents[1]  # where fairseq looks for a user-dir too
    fairseq_call_main = fairseq_distributed.call_main

    def call_main(cfg: Any, main: Any, **kwargs: Any) -> Any:
        """Import the user-dir, then start the processes by the `call_main` that it leaves behind."""
        fairseq_distributed.call_main = fairseq_call_main
        given, name = cfg.common.user_dir, getattr(cfg.get("model"), "_name", None)
        found = given is None or any((folder / given).is_dir() for folder in (Path(), FAIRSEQ, FAIRSEQ.parent))
        if found:
            import_user_module(cfg.common)
        if not found or name is not None and name not in ARCH_MODEL_REGISTRY:
            from linformer_fairseq.paths import USER_DIR  # not before: fairseq skips a user-dir that has been imported

            raise SystemExit(
                f"error: common.user_dir={given}: no folder, or none with the model {name}; for the models of "
                f"linformer_fairseq, give common.user_dir={USER_DIR}"
            )
        return fairseq_distributed.call_main(cfg, main, **kwargs)

    fairseq_distributed.call_main = call_main
