"""16-bit training on a CPU, and what its flags mean on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from linformer_fairseq.compat import launch, precision
from linformer_fairseq.errors import UsageError

UPDATES = ("--max-update", 4, "--disable-validation")
ANNOUNCEMENT = "computing in bfloat16 (CPU autocast); parameters and optimizer stay in float32"


@pytest.fixture(scope="module")
def in_32_bit(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = train(tmp_path_factory.mktemp("fp32"), *UPDATES)
    assert ANNOUNCEMENT not in run.output
    return run


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--bf16", "--amp"])
def test_bfloat16_on_a_cpu(
    flag: str, train: Callable[..., Any], in_32_bit: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = train(tmp_path_factory.mktemp(flag.strip("-")), *UPDATES, flag)
    assert run.output.count(ANNOUNCEMENT) == 1
    assert [update for update, _ in run.losses] == [1, 2, 3, 4]
    assert [loss for _, loss in run.losses] == pytest.approx([loss for _, loss in in_32_bit.losses], rel=0.01)

    checkpoint = run.checkpoint()
    assert {parameter.dtype for parameter in checkpoint["model"].values() if parameter.is_floating_point()} == {
        torch.float32
    }
    assert checkpoint["model"].keys() == in_32_bit.checkpoint()["model"].keys()
    in_full = in_32_bit.checkpoint()["model"]
    # Computed in 32 bit, as fairseq's --amp does on a CPU, they would be the same bits.
    assert any(not torch.equal(value, in_full[name]) for name, value in checkpoint["model"].items())
    assert not checkpoint["cfg"]["common"]["bf16"] and not checkpoint["cfg"]["common"]["amp"]


@pytest.mark.parametrize("flag", ["--fp16", "--memory-efficient-fp16"])
def test_fp16_on_a_cpu_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = parsed(flag)
    with pytest.raises(UsageError, match="need a CUDA GPU, and PyTorch finds none here: use --bf16 or --amp"):
        precision.refuse_fp16_on_cpu(cfg)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    precision.refuse_fp16_on_cpu(cfg)
    with pytest.raises(UsageError, match="and --cpu was given"):
        precision.refuse_fp16_on_cpu(parsed(flag, "--cpu"))


def test_fp16_on_a_cpu_is_refused_before_data_is_read(train: Callable[..., Any], tmp_path_factory: Any) -> None:
    refused = train(tmp_path_factory.mktemp("fp16"), *UPDATES, "--fp16", check=False)
    assert refused.returncode == 1
    assert refused.output.strip().splitlines()[-1].startswith("error: --fp16 and --memory-efficient-fp16 need a CUDA")
    assert "Traceback" not in refused.output and "dictionary:" not in refused.output


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize("environ", [{}, TORCHRUN], ids=["alone", "one of two"])
def test_training_does_not_start_on_a_gpu_that_torch_has_no_code_for(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100 that a monkeypatch pretends, and the build of torch for CUDA 13."""
    monkeypatch.setattr(launch.os, "environ", environ)
    for name, value in {"is_available": True, "device_count": 2, "get_arch_list": ["sm_75", "sm_80"]}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    v100 = SimpleNamespace(name="Tesla V100", major=7, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: v100)
    cfg = parsed("--fp16", *([] if environ else ["--distributed-world-size", "1"]))
    with pytest.raises(
        SystemExit, match="^error: Tesla V100 has capability 7.0, and torch .* has code for sm_75, sm_80"
    ):
        launch.start(pytest.fail, cfg, pytest.fail)


@pytest.mark.parametrize("cuda", [False, True], ids=["without CUDA", "CUDA pretended by a monkeypatch"])
def test_bf16_does_not_mean_a_tpu(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    cfg = parsed("--bf16")
    assert cfg.common.bf16 and not cfg.common.tpu
    assert precision.on_cpu(cfg) is not cuda


def test_a_tpu_that_was_asked_for_stays_one() -> None:
    cfg = parsed("--bf16", "--tpu")
    assert cfg.common.bf16 and cfg.common.tpu and not precision.on_cpu(cfg)


def test_a_missing_architecture_is_named() -> None:
    with pytest.raises(SystemExit, match="^error: no --arch is given"):
        options.parse_args_and_arch(options.get_training_parser(), ["data", "--task", "masked_lm"])


def parsed(*flags: str) -> Any:
    """The configuration that `fairseq-train DATA … flags` makes."""
    argv = ["data", "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta", *flags]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))
