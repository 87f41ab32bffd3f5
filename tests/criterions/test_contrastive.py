"""The contrastive criterion: its definition, copies in a batch, gradients cached chunk by chunk, several processes."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import symbols, untrained
from linformer_fairseq.compat.launch import DeviceAwareDDP
from linformer_fairseq.criterions import contrastive
from linformer_fairseq.criterions.contrastive import ContrastiveLoss, no_negatives, ranked
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import OF_PAIRS
from linformer_fairseq.finetuning.retrieval import Retrieval, scored

SIZES = {"encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}
V, ROWS = 40, 5


def model(dropout: float = 0.0) -> Any:
    kind = {"_name": "linformer_roberta", "max_positions": 32, "projected_length": "8", "projection": "adaptive"}
    made = untrained(SIZES | kind | {"local_window": 4, "dropout": dropout, "attention_dropout": dropout}, V)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.train()


def criterion(chunk_rows: int = 0, temperature: float = 0.1, first_token: bool = False) -> ContrastiveLoss:
    task: Any = SimpleNamespace(source_dictionary=symbols(V), target_dictionary=symbols(V))
    return ContrastiveLoss(task, temperature, first_token, chunk_rows)


def batch(columns: int = 3, seed: int = 1) -> dict[str, Any]:
    """Rows of a query, a passage and a hard negative, of 4 to 24 tokens."""
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, V - 1, (columns * ROWS, 24), generator=chance)
    tokens[:, 0] = 0
    for row, length in enumerate(torch.randint(4, 25, (len(tokens),), generator=chance).tolist()):
        tokens[row, length - 1], tokens[row, length:] = 2, 1
    return {"net_input": {"src_tokens": tokens}, "nsentences": ROWS, "ntokens": int(tokens.ne(1).sum())}


def alone(made: Any, tokens: Tensor, first_token: bool) -> Tensor:
    """The vector of one text without padding."""
    features = made(tokens[tokens.ne(1)].unsqueeze(0), features_only=True)[0][0]
    vector = features[0] if first_token else features.mean(0)
    return vector / vector.norm()


@pytest.mark.parametrize("first_token", [False, True])
def test_the_loss_is_that_of_the_definition(first_token: bool) -> None:
    made, sample = model(), batch()
    loss, size, logged = criterion(first_token=first_token)(made, sample)
    vectors = [alone(made, text, first_token) for text in sample["net_input"]["src_tokens"]]
    queries, passages = vectors[:ROWS], vectors[ROWS:]
    expected = 0.0
    for i, query in enumerate(queries):
        shares = [math.exp(float(query @ passage) / 0.1) for passage in passages]
        expected -= math.log(shares[i] / sum(shares))
    assert size == ROWS and logged["loss"] == loss.detach()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def gradients(made: Any, loss: Tensor) -> list[Tensor]:
    made.zero_grad()
    (3.0 * loss).backward()  # fairseq scales it, too
    return [p.grad.clone() for name, p in made.named_parameters() if "sentence_encoder" in name]


@pytest.mark.parametrize("chunk_rows", [1, 4, 14])
def test_cached_gradients_are_those_of_the_whole_batch(chunk_rows: int) -> None:
    made, sample = model(), batch()
    whole, _, _ = criterion()(made, sample)
    expected = gradients(made, whole)
    calls = []
    made.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    cached, _, _ = criterion(chunk_rows)(made, sample)
    chunks = -(-3 * ROWS // chunk_rows)
    assert len(calls) == chunks
    torch.testing.assert_close(cached, whole, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(gradients(made, cached), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2 * chunks  # each is computed once more


def test_cached_chunks_draw_the_same_dropout_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sample, found = model(dropout=0.3), batch(), []
    for kept in (False, True):
        if kept:  # all chunks keep what the backward pass needs
            monkeypatch.setattr(contrastive, "checkpoint", lambda function, chunk, use_reentrant: function(chunk))
        torch.manual_seed(7)
        loss, _, _ = criterion(4)(made, sample)
        torch.rand(3)  # another number is drawn before the backward pass
        found.append([loss.detach(), *gradients(made, loss)])
    torch.manual_seed(8)
    assert criterion(4)(made, sample)[0] != found[0][0]
    for cached, wanted in zip(*found, strict=True):
        torch.testing.assert_close(cached, wanted, rtol=1e-5, atol=1e-6)


def test_a_batch_of_many_chunks_keeps_the_activations_of_one() -> None:
    made, kept = model(), {}
    for chunk_rows in (0, 3):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            loss, _, _ = criterion(chunk_rows)(made, batch())
        kept[chunk_rows] = sum(sizes)
        assert loss.requires_grad
    assert kept[3] < kept[0] / 20


def test_copies_of_a_passage_and_passages_of_the_same_query_are_no_negatives() -> None:
    queries, passages, others = [10, 11, 10, 12], [20, 21, 22, 20], [30, 21, 20, 31]
    tokens = torch.tensor([*queries, *passages, *others]).unsqueeze(1)
    left_out = {(row, column) for row, column in no_negatives(tokens, 4).nonzero().tolist()}
    copies = {(0, 3), (0, 6), (1, 5), (3, 0), (3, 6)}
    assert left_out == copies | {(0, 2), (2, 0)}


def test_a_row_that_is_there_twice_is_not_its_own_negative() -> None:
    made, tokens = model(), batch(2)["net_input"]["src_tokens"]
    twice = torch.cat([tokens[:ROWS], tokens[:1], tokens[ROWS:], tokens[ROWS : ROWS + 1]])
    loss = criterion()(made, {"net_input": {"src_tokens": twice}, "nsentences": ROWS + 1, "ntokens": 1})[0]
    once, first = (
        criterion()(made, {"net_input": {"src_tokens": x}, "nsentences": n, "ntokens": 1})[0]
        for x, n in ((tokens, ROWS), (torch.cat([tokens[:1], tokens[ROWS:]]), 1))
    )
    others = once - first
    assert first + others < loss
    vectors = criterion().vectors(made, tokens)
    scores = vectors[:ROWS] @ vectors[ROWS:].t() / 0.1
    shares = torch.cat([scores, scores[:, :1]], 1)[1:]  # the others meet the copy
    expected = 2 * first - sum(shares.log_softmax(1)[i, i + 1] for i in range(ROWS - 1))
    torch.testing.assert_close(loss, expected)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="--temperature 0: must be above 0"):
        criterion(temperature=0)


def part(sample: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Some rows of a batch, without padding that they do not need."""
    tokens = sample["net_input"]["src_tokens"].view(-1, ROWS, 24)[:, start:stop].flatten(0, 1)
    tokens = tokens[:, : int(tokens.ne(1).sum(1).max())]
    return {"net_input": {"src_tokens": tokens}, "nsentences": stop - start, "ntokens": int(tokens.ne(1).sum())}


def rank_of_two(rank: int, file: Path, put: Any) -> None:
    """Losses and gradients of rank 0 with 2 rows and rank 1 with 3, each in PyTorch's DDP, then scores."""
    torch.set_num_threads(1)  # those of the process that has forked this one are not here
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    made = model()
    wrapped = DeviceAwareDDP(made, broadcast_buffers=False)  # as fairseq does
    sample, found = part(batch(), *((0, 2), (2, 5))[rank]), []
    for chunk_rows in (0, 2, 2):
        loss, size, _ = criterion(chunk_rows)(wrapped, sample)
        assert size == sample["nsentences"]
        found.append([loss.detach().numpy(), *(gradient.numpy() for gradient in gradients(made, loss))])
    made.eval()
    with torch.no_grad():
        log = criterion(2)(wrapped.eval(), sample)[2]
    put((rank, found, {name: float(log[name]) for name in OF_PAIRS}))
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    made = model()
    loss, _, _ = criterion()(made, batch())
    expected = [loss.detach(), *gradients(made, loss)]
    with torch.no_grad():
        scores = criterion()(made.eval(), batch())[2]
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    ranks = [fork.Process(target=rank_of_two, args=(rank, tmp_path / "store", queue.put)) for rank in range(2)]
    for process in ranks:
        process.start()
    (_, ones, one), (_, others, other) = sorted((queue.get() for _ in ranks), key=lambda found: found[0])
    for process in ranks:
        process.join()
    assert [one[name] + other[name] for name in OF_PAIRS] == pytest.approx([float(scores[name]) for name in OF_PAIRS])
    for by_rank in zip(ones, others, strict=True):
        losses, found = [part[0] for part in by_rank], by_rank[0][1:]
        torch.testing.assert_close(torch.tensor(sum(losses)), expected[0], rtol=1e-5, atol=1e-5)
        for mean, wanted in zip(found, expected[1:], strict=True):  # DDP's gradients are means over processes
            torch.testing.assert_close(2 * torch.from_numpy(mean), wanted, rtol=1e-4, atol=1e-5)


def test_a_validation_has_the_scores_of_retrieval() -> None:
    made, sample = model().eval(), batch(seed=2)
    with torch.no_grad():
        log = criterion(chunk_rows=4)(made, sample)[2]
        vectors = criterion().vectors(made, sample["net_input"]["src_tokens"]).numpy()
    gains = csr_matrix(np.eye(ROWS, 2 * ROWS))
    retrieval = Retrieval([""] * ROWS, [""] * 2 * ROWS, gains)
    expected = scored(retrieval, lambda rows: vectors[:ROWS][rows] @ vectors[ROWS:].T)
    assert {name: 100 * float(log[name]) / ROWS for name in OF_PAIRS} == pytest.approx(expected)
    assert 10 < expected["ndcg@10"] < 99
    assert "ndcg@10" not in criterion()(model(), sample)[2]  # only validations take the time


def test_equal_vectors_find_nothing() -> None:
    scores = torch.full((2, 12), 0.7)
    assert not any(found.item() for name, found in ranked(scores, torch.tensor([0, 5])).items() if "@100" not in name)
    assert ranked(torch.full((1, 101), torch.nan), torch.tensor([0]))["recall@100"] == 0
