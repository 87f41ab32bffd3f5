"""--bf16, --amp and --fp16 on CPUs, and the decision that --bf16 takes on CUDA."""

import pytest
import torch
from fairseq import options
from omegaconf import OmegaConf
from torch import nn

import linformer_fairseq  # noqa: F401  (applies the repairs)
from linformer_fairseq.compat import UsageError, precision


@pytest.fixture(scope="module")
def in_32_bit(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("fp32"), "--max-update", 4).succeeded()


@pytest.mark.parametrize("flag", ["--bf16", "--amp", "--memory-efficient-bf16"])
def test_forward_in_bfloat16_and_the_rest_in_32_bit(train, in_32_bit, tmp_path, flag):
    run = train(tmp_path, "--max-update", 4, flag).succeeded()
    assert run.stdout.count("computing in bfloat16 (CPU autocast)") == 1
    # The same training, but for rounding.
    assert [float(loss) for loss in run.losses] == pytest.approx([float(loss) for loss in in_32_bit.losses], abs=0.01)
    state, exact = run.checkpoint(), in_32_bit.checkpoint()
    assert any(not torch.equal(state["model"][name], exact["model"][name]) for name in exact["model"])
    assert {value.dtype for value in state["model"].values()} == {torch.float32}
    moments = state["last_optimizer_state"]["state"].values()
    assert {moment["exp_avg"].dtype for moment in moments} == {torch.float32}
    common = state["cfg"]["common"]
    assert not common["tpu"] and not common["bf16"] and not common["amp"]


def test_a_bfloat16_run_goes_on_in_32_bit_and_back(train, tmp_path):
    train(tmp_path, "--max-update", 2, "--bf16").succeeded()
    assert len(train(tmp_path, "--max-update", 4).succeeded().losses) == 2
    assert len(train(tmp_path, "--max-update", 6, "--amp").succeeded().losses) == 2


def test_two_processes_in_bfloat16(train, tmp_path):
    run = train(tmp_path, "--max-update", 2, "--bf16", "--distributed-world-size", 2).succeeded()
    assert len(run.losses) == 2
    assert run.stdout.count("computing in bfloat16 (CPU autocast)") == 1


class Criterion(nn.Module):
    """Remembers the type in which the model has computed, as a criterion of fairseq's sees it."""

    def forward(self, model, sample):
        self.seen = model(sample).dtype, torch.is_autocast_enabled("cpu")
        return self.seen


def test_the_trainer_computes_the_criterion_under_autocast(monkeypatch):
    """The real patch of Trainer.__init__ around a stand-in for fairseq's own, which needs a whole task."""
    monkeypatch.setattr(precision.Trainer, "__init__", lambda *_: None)
    precision.autocast_on_cpu()
    flags = {"tpu": False, "cpu": False, "fp16": False, "bf16": True, "memory_efficient_bf16": False, "amp": False}
    criterion, model = Criterion(), nn.Linear(4, 4)
    precision.Trainer(OmegaConf.create({"common": flags}), None, model, criterion)
    assert criterion(model, torch.ones(2, 4)) == (torch.bfloat16, True)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("flag", ["--fp16", "--memory-efficient-fp16"])
def test_fp16_without_a_gpu_is_refused_before_data_is_looked_for(run_fairseq, tiny_roberta, tmp_path, flag):
    refused = run_fairseq("fairseq-train", "/nowhere", *tiny_roberta[1:], "--save-dir", tmp_path, flag)
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in ("--fp16", "--bf16", "--amp", "32 bit"))
    assert "Traceback" not in refused.stderr


# What follows decides about CUDA on a machine that has none: `torch.cuda.is_available` alone is made up.
@pytest.fixture(params=[False, True], ids=["CPU", "pretended CUDA"])
def cuda(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


def parsed(*flags: str):
    """The configuration as fairseq-train makes it from its command line."""
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    argv = ["data", "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta", "--batch-size", "1", *flags]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16"])
def test_bf16_is_no_tpu_mode_on_any_device(cuda, flag):
    cfg = parsed(flag)
    assert cfg.common.bf16 and not cfg.common.tpu and not cfg.distributed_training.tpu
    assert precision.on_cpu(cfg) is not cuda


def test_tpu_stays_a_tpu(cuda):
    cfg = parsed("--bf16", "--tpu")
    assert cfg.common.bf16 and cfg.common.tpu and cfg.distributed_training.tpu
    assert not precision.on_cpu(cfg)


@pytest.mark.parametrize("flag", ["--fp16", "--amp"])
def test_other_flags_are_untouched(cuda, flag):
    cfg = parsed(flag)
    assert cfg.common[flag[2:]] and not cfg.common.tpu and not cfg.common.bf16


def test_fp16_is_refused_on_a_cpu_only(cuda):
    cfg = parsed("--fp16")
    if cuda:
        precision.refuse_fp16_on_cpu(cfg)
        cfg = parsed("--fp16", "--cpu")
    with pytest.raises(UsageError, match="--cpu was given" if cuda else "PyTorch finds none"):
        precision.refuse_fp16_on_cpu(cfg)


def test_partial_parsing_keeps_its_shape():
    """Some programs parse only what they know, and get a pair."""
    argv = ["data", "--arch", "roberta", "--task", "masked_lm", "--bf16", "--unknown"]
    args, unknown = options.parse_args_and_arch(options.get_training_parser(), argv, parse_known=True)
    assert args.bf16 and not args.tpu and unknown == ["--unknown"]
