"""Recipes are checked against fairseq's real flags; those of the project all hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

# fairseq uses hydra as it was in 2020, and hydra says so.
pytestmark = pytest.mark.filterwarnings("ignore:::hydra")

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*ROOT.glob("recipes/pretrain/*.yaml"), *ROOT.glob("recipes/finetune/*.yaml")])
TINY = ROOT / "recipes/pretrain/tiny_n512_k128.yaml"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A recipe file: tiny with some settings changed, `changed({"common.seed": 2})`."""

    def write(changes: dict[str, Any]) -> Path:
        config = OmegaConf.load(TINY)
        for key, value in changes.items():
            OmegaConf.update(config, key, value)
        OmegaConf.save(config, tmp_path / "changed.yaml")
        return tmp_path / "changed.yaml"

    return write


def as_fairseq_reads(argv: list[str]) -> Any:
    """The configuration that fairseq-train makes of a command."""
    assert argv[0] == "fairseq-train"
    arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=argv[1:])
    return convert_namespace_to_omegaconf(arguments)


def test_there_are_recipes() -> None:
    assert TINY in RECIPES and len(RECIPES) > 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_fairseq_reads_every_setting_of_a_recipe(path: Path) -> None:
    config = as_fairseq_reads(fairseq_train_argv(path, "DATA", Path("RUN")))
    wanted: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))
    for section in wanted.keys() - {"hydra"}:
        settings = wanted[section] if isinstance(wanted[section], dict) else {"_name": wanted[section]}
        for key, value in settings.items():
            if value == "???":
                continue
            found = config[section][key]
            if isinstance(value, list):
                found = list(found) if not isinstance(found, str) else found
                value = value if not isinstance(found, str) else ",".join(map(str, value))
            assert str(found) == str(value) or float(found) == float(value), f"{section}.{key}"
    assert config.task.data == "DATA" and config.checkpoint.save_dir == "RUN"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_costs_and_gives(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    config = OmegaConf.load(path)
    for word in ("Hardware", "Time", "Data", "Expected"):
        assert re.search(rf"^# {word} +\S", header, re.MULTILINE), word
    if path.parent.name != "pretrain":
        return
    n, k = map(int, re.findall(r"_[nk](\d+)", path.stem)[:2])
    assert config.task.tokens_per_sample == n
    assert header.startswith(f"# {config.model._name}") or header.startswith(f"# linformer_roberta_{path.stem}")
    assert f"k{k}" in path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_learning_rate_ends_where_the_training_does(path: Path) -> None:
    config = OmegaConf.load(path)
    assert config.lr_scheduler.total_num_update == config.optimization.max_update
    assert config.lr_scheduler.warmup_updates < config.optimization.max_update


def test_overrides_win(changed: Callable[..., Path]) -> None:
    path = changed({"common.seed": 2})
    argv = fairseq_train_argv(path, "a:b", Path("RUN"), {"optimization.max_update": 7, "model.local_conv": 0})
    config = as_fairseq_reads(argv)
    assert (config.common.seed, config.optimization.max_update, config.model.local_conv) == (2, 7, 0)
    assert config.task.data == "a:b"


@pytest.mark.parametrize("flag", ["--bf16", "--amp", "--memory-efficient-fp16"])
def test_a_precision_behind_the_recipe_replaces_its_own(flag: str, changed: Callable[..., Path]) -> None:
    recipe = changed({"common.fp16": True})
    assert as_fairseq_reads(fairseq_train_argv(recipe, "DATA", Path("RUN"))).common.fp16
    common = as_fairseq_reads(fairseq_train_argv(recipe, "DATA", Path("RUN"), more=[flag])).common
    assert common[flag.removeprefix("--").replace("-", "_")] and not (common.tpu or common.fp16 and "fp16" not in flag)


@pytest.mark.parametrize(
    ("flag", "name", "setting", "kept"),
    [
        ("--optimizer", "adam", "optimizer.adam_betas", "(0.9,0.98)"),
        ("--lr-scheduler", "inverse_sqrt", "lr_scheduler.warmup_updates", 163),
        ("--arch", "roberta_base", "model.dropout", 0.0),
    ],
)
def test_another_choice_behind_the_recipe_takes_the_settings_that_it_has(
    flag: str, name: str, setting: str, kept: Any
) -> None:
    recipe = TINY.with_stem("tiny_n512_k128_muon")  # --muon-vector-lr-scale, --total-num-update, --projection
    config = as_fairseq_reads(fairseq_train_argv(recipe, "DATA", Path("RUN"), more=[flag, name]))
    section, key = setting.split(".")
    assert config[section]._name == name and getattr(config[section], key) == kept


def test_two_precisions_are_refused_in_a_sentence(changed: Callable[..., Path]) -> None:
    argv = fairseq_train_argv(changed({"common.fp16": True}), "DATA", Path("RUN"))
    with pytest.raises(SystemExit, match="^error: --fp16 and --bf16: give one of them"):
        as_fairseq_reads([*argv, "--bf16"])


def test_switches_are_given_only_where_they_differ(changed: Callable[..., Path]) -> None:
    on = fairseq_train_argv(changed({"common.cpu": True}), "DATA", Path("RUN"))
    off = fairseq_train_argv(changed({"common.cpu": False}), "DATA", Path("RUN"))
    assert "--cpu" in on and "--cpu" not in off


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimisation.max_update": 1}, "unknown section optimisation; the sections are common, "),
        ({"optimization.max_updates": 1}, "optimization.max_updates: unknown key; this section has "),
        ({"model.project_length": 1}, "model.project_length: unknown key; this section has "),
        ({"model._name": "linformer"}, "model._name: linformer is unknown; fairseq has "),
        ({"model": None}, "model._name: None is unknown; fairseq has "),
        ({"optimizer._name": "sgdd"}, "optimizer._name: sgdd is unknown; fairseq has "),
        ({"task._name": "mlm"}, "task._name: mlm is unknown; fairseq has "),
        ({"optimization.max_update": "many"}, "optimization.max_update: 'many' is not a value for --max-update"),
        ({"optimization.max_update": None}, "optimization.max_update: null is not a value for --max-update"),
        ({"task.sample_break_mode": "all"}, "task.sample_break_mode: 'all' is not one of "),
        ({"checkpoint.no_epoch_checkpoints": "yes"}, "checkpoint.no_epoch_checkpoints: 'yes' is not true or false"),
        ({"model.attention": "exakt"}, "model.attention: 'exakt' is not one of "),
    ],
    ids=str,
)
def test_what_fairseq_would_not_understand_is_refused(
    changed: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = changed(changes)
    with pytest.raises(UsageError) as error:
        fairseq_train_argv(path, "DATA", Path("RUN"))
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_user_dir_that_does_not_load_this_package_is_refused(tmp_path: Path) -> None:
    recipe, run = find_recipe("tiny_n512_k128"), tmp_path / "run"
    for name in ("a_package", "an_extension"):
        (tmp_path / name).mkdir()
    (tmp_path / "a_package/__init__.py").touch()
    extension = tmp_path / "an_extension/__init__.py"
    extension.write_text("from linformer_fairseq.plugin import register\n")
    for given in (tmp_path / "missing", tmp_path, tmp_path / "a_package", extension):
        for flags in (["--user-dir", str(given)], [f"--user-dir={given}"]):
            with pytest.raises(UsageError, match=f"--user-dir {re.escape(str(given))}: .* leave the flag out"):
                fairseq_train_argv(recipe, "DATA", run, more=["--seed", "2", *flags])
    for given in (extension.parent, USER_DIR, USER_DIR.parent):
        assert fairseq_train_argv(recipe, "DATA", run, more=["--user-dir", str(given)])[-1] == str(given)


@pytest.mark.parametrize("content", [None, "- a list\n", "common: [unclosed\n", "common:\n  seed: ${nothing}\n"])
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"broken\.yaml: "):
        fairseq_train_argv(path, "DATA", Path("RUN"))
