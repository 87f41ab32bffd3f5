"""The ladder of levers: fairseq understands each, and it is the change that its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from fairseq import options

from linformer_fairseq.measuring.trainings import RECIPE, schedule
from linformer_fairseq.training.recipe import fairseq_train_argv
from recipes.reproduce.recipe_ladder import LEVERS, VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_fairseq_understands_each_variant(variant: str) -> None:
    argv = fairseq_train_argv(RECIPE, "DATA", Path("RUN"), {**schedule(100), **VARIANTS[variant]})
    arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=argv[1:])
    optimizer, rate, rows, *lever = variant.split(", ")
    assert arguments.optimizer == optimizer
    assert f"lr {arguments.lr[0]:g}" == rate and f"{arguments.batch_size} rows" == rows
    assert not lever or ", ".join(lever) in LEVERS
    assert arguments.task == "streaming_masked_lm"
    assert (arguments.lr_scheduler == "warmup_stable_decay") == ("stable schedule" in lever)


def test_the_first_variant_is_the_recipe_with_the_streaming_task() -> None:
    of = {"task._name": "streaming_masked_lm"}
    recipe, changed = (fairseq_train_argv(RECIPE, "DATA", Path("RUN"), s) for s in (of, next(iter(VARIANTS.values()))))
    assert recipe == changed
