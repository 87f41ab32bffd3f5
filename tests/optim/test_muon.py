"""`--optimizer muon`: its updates are those of torch.optim.Muon for matrices and of `fused_adamw` for the rest."""

from __future__ import annotations

import logging
import math
import multiprocessing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from omegaconf import OmegaConf
from torch import nn

from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import EncoderConfig
from linformer_fairseq.layers.encoder import HIDDEN, LinformerEncoder
from linformer_fairseq.optim.fused_adamw import FusedAdamW
from linformer_fairseq.optim.muon import Muon, is_hidden, newton_schulz, orthogonalised, who_updates
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.plugin import register

register()
SETTINGS = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1, "lr": [1e-3]}
SETTINGS |= {"muon_momentum": 0.9, "muon_vector_lr_scale": 1.0}
TRAIN = "--task masked_lm --arch linformer_roberta_tiny --max-positions 64 --tokens-per-sample 64 --projected-length 16"
TRAIN += f" --criterion masked_lm --batch-size 4 --lr 1e-3 --cpu --disable-validation --user-dir {USER_DIR}"
SHAPES = [(50, 16), (16, 16), (16, 48), (48, 16), (16,), (16, 16)]
MATRICES = (1, 2, 3, 5)


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    found = [nn.Parameter(torch.randn(shape).mul(0.1).to(dtype)) for shape in SHAPES]
    for number in MATRICES:
        found[number].param_group = HIDDEN  # type: ignore[attr-defined]
    return found


def make(kind: Any = Muon, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    return kind(OmegaConf.create(SETTINGS | settings), parameters(dtype))


def update(optimizer: Any, number: int, factor: float = 1.0) -> None:
    optimizer.zero_grad()
    rng = torch.Generator().manual_seed(number)
    for parameter in optimizer.params:
        gradient = torch.randn(parameter.shape, generator=rng) * 1e-2
        parameter.grad = (gradient / factor).to(parameter.dtype)
    optimizer.multiply_grads(torch.tensor(factor))
    optimizer.clip_grad_norm(0.1)
    optimizer.step()


def test_matrices_are_updated_as_by_muon_and_the_rest_as_by_adamw() -> None:
    ours, adam, plain = make(), make(FusedAdamW), parameters()
    reference = torch.optim.Muon(*([plain[n] for n in MATRICES], 1e-3, 0.1, 0.9), adjust_lr_fn="match_rms_adamw")
    for number in range(1, 6):
        update(ours, number)
        update(adam, number)
        for parameter, own in zip(plain, ours.params, strict=True):
            norm = torch.stack([p.grad.norm() for p in ours.params]).norm()
            parameter.grad = own.grad * (0.1 / norm).clamp(max=1)
        reference.step()
    for number, (start, found) in enumerate(zip(parameters(), ours.params, strict=True)):
        expected = plain[number] if number in MATRICES else list(adam.params)[number]
        change = (expected - start).norm()
        assert (found - expected).norm() < (0.02 if number in MATRICES else 1e-6) * change, number


def test_vectors_have_a_learning_rate_of_their_own() -> None:
    start, once, thrice = parameters(), make(weight_decay=0.0), make(weight_decay=0.0, muon_vector_lr_scale=3.0)
    for optimizer in (once, thrice):
        update(optimizer, 1)
    for before, one, three in zip(start, once.params, thrice.params, strict=True):
        torch.testing.assert_close(three - before, (one - before) * (3 if before.dim() == 1 else 1))


def test_singular_values_come_near_one_for_matrices_of_any_shape() -> None:
    for shape in ((2, 8, 8), (3, 6, 24), (1, 24, 6)):
        values = torch.linalg.svdvals(newton_schulz(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
        assert values.shape[1] == min(shape[1:]) and values.max() < 1.3 and values.median() > 0.6
    assert torch.equal(newton_schulz(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


def test_a_factor_of_the_gradients_counts_once() -> None:
    one, other = make(), make()
    for number in range(1, 4):
        update(one, number)
        update(other, number, 64.0)
    for ours, theirs in zip(one.params, other.params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_16_bit_parameters_keep_a_32_bit_momentum() -> None:
    low, high = make(dtype=torch.bfloat16), make()
    for number in range(1, 4):
        update(low, number)
        update(high, number)
    for ours, theirs in zip(low.params, high.params, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-7, atol=2**-8)
    assert {state["momentum"].dtype for state in low.optimizer.state.values() if "momentum" in state} == {torch.float32}


@pytest.mark.parametrize("before", [Muon, FusedAdamW])
def test_it_resumes_from_its_own_state_and_from_adams(before: Any, caplog: pytest.LogCaptureFixture) -> None:
    saving, resumed = make(before), make()
    for number in range(1, 4):
        update(saving, number)
    for kept, loaded in zip(saving.params, resumed.params, strict=True):
        loaded.data.copy_(kept.data)
    with caplog.at_level(logging.INFO):
        resumed.load_state_dict(deepcopy(saving.state_dict()))
    assert ("momentum of 4 matrices, and their second moments are dropped" in caplog.text) == (before is FusedAdamW)
    update(resumed, 4)
    update(saving, 4)
    same = [torch.equal(a, b) for a, b in zip(saving.params, resumed.params, strict=True)]
    assert same == [before is Muon or number not in MATRICES for number in range(len(SHAPES))]


def test_adam_starts_anew_from_a_state_of_muon(caplog: pytest.LogCaptureFixture) -> None:
    saving, resumed = make(), make(FusedAdamW)
    update(saving, 1)
    with caplog.at_level(logging.INFO):
        resumed.load_state_dict(deepcopy(saving.state_dict()), resumed.optimizer_config)
    assert "the moments of all parameters start anew" in caplog.text and not resumed.optimizer.state


def test_fairseq_train_resumes_a_run_of_adam_with_muon_and_back(
    tiny_data: Path, tmp_path: Path, run_fairseq: Any
) -> None:
    said = {"adam": "", "muon": "become the momentum of", "fused_adamw": "the moments of all parameters start anew"}
    for updates, (optimizer, message) in enumerate(said.items(), 1):
        found = run_fairseq(
            *("fairseq-train", tiny_data, "--save-dir", tmp_path, *TRAIN.split()),
            *("--optimizer", optimizer, "--max-update", updates),
        )
        assert message in found.stdout and f"@ {updates} updates" in found.stdout


def test_the_model_marks_its_matrices_and_no_projection() -> None:
    encoder = LinformerEncoder(EncoderConfig(50, 32, embed_dim=16, ffn_dim=32, num_heads=2, num_layers=2))
    marked = {name.partition("layers.")[2][2:] for name, p in encoder.named_parameters() if is_hidden(p)}
    projections = {f"self_attn.{name}_proj.weight" for name in "qkv"} | {"self_attn.out_proj.weight"}
    assert marked == projections | {"fc1.weight", "fc2.weight"}
    lines = who_updates(encoder).splitlines()
    assert "muon: layers.*.fc1.weight (32, 16) x 2" in lines
    assert any(line.startswith("adam: embed_tokens.weight") for line in lines)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="--optimizer muon: this model marks no matrices"):
        Muon(OmegaConf.create(SETTINGS), [nn.Parameter(torch.zeros(4, 4))])
    with pytest.raises(UsageError, match="--muon-momentum 1.0"):
        make(muon_momentum=1.0)
    for scale in (-1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=f"--muon-vector-lr-scale {scale}: must be a number of at least 0"):
            make(muon_vector_lr_scale=scale)


def share(rank: int, file: Path, matrices: torch.Tensor, found: Any) -> None:
    torch.set_num_threads(1)  # a forked process has none of the threads of its parent, and would wait for them
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    found.put(orthogonalised(matrices).tolist())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("number", [3, 1])
def test_two_processes_share_the_work_and_get_the_same(number: int, tmp_path: Path) -> None:
    matrices = torch.randn(number, 8, 12, generator=torch.Generator().manual_seed(3))
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    ranks = [fork.Process(target=share, args=(rank, tmp_path / "store", matrices, found)) for rank in range(2)]
    for process in ranks:
        process.start()
    for _ in ranks:
        torch.testing.assert_close(torch.tensor(found.get()), orthogonalised(matrices), rtol=0, atol=1e-6)
    for process in ranks:
        process.join()
