"""The criterion that fits a converted model to its exact original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, complete_settings, symbols, write
from linformer_fairseq.criterions.distillation import DistillationLoss
from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

SIZES = {"encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}
V = 40


def checkpoint(n: int = 32, **settings: object) -> Checkpoint:
    model = {"_name": "linformer_roberta", **SIZES, "max_positions": n, "attention": "exact"} | settings
    empty = Checkpoint({}, model, {"tokens_per_sample": n})
    complete = complete_settings(model)
    torch.manual_seed(1)
    built = LinformerRobertaModel(complete, LinformerRobertaEncoder(complete, symbols(V)))
    return replace(empty, state=built.state_dict())


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    write(checkpoint(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def criterion(teacher: Path, hidden: float = 1.0, vector: float = 1.0, short: int = 0) -> DistillationLoss:
    return DistillationLoss(task(V), str(teacher), hidden, vector, short)


def task(size: int) -> Any:
    return SimpleNamespace(source_dictionary=symbols(size), target_dictionary=symbols(size))


def sample(tokens: int, pads: int = 0) -> dict[str, Any]:
    """Two texts with masked tokens, the second one shorter."""
    text = torch.randint(4, V - 1, (2, tokens), generator=torch.Generator().manual_seed(tokens))
    text[:, 0], text[:, -1] = 0, 2
    if pads:
        text[1, -pads:] = 1
    masked = torch.zeros_like(text, dtype=torch.bool)
    masked[:, 3] = True
    target = text.masked_fill(~masked, 1)
    return {"net_input": {"src_tokens": text.masked_fill(masked, V - 1)}, "target": target, "ntokens": 2 * tokens}


def student(**settings: object) -> Any:
    model = build(checkpoint())
    kind: dict[str, Any] = {"attention": "linformer", "projection": "adaptive", "projected_length": "8"}
    other = build(checkpoint(**(kind | settings)))
    fits = {name: value for name, value in model.state_dict().items() if value.shape == other.state_dict()[name].shape}
    other.load_state_dict(fits, strict=False)
    return other


def test_the_exact_model_has_no_loss_and_texts_of_k_tokens_have_none_after_conversion(teacher: Path) -> None:
    for model, tokens in ((build(checkpoint()), 30), (student(), 8)):
        loss, size, logged = criterion(teacher)(model, sample(tokens, pads=3))
        assert size == 2 and logged["cosine"].item() == pytest.approx(2)
        assert loss.item() == pytest.approx(0, abs=1e-5)


def test_the_loss_is_that_of_the_definition(teacher: Path) -> None:
    model, batch = student(), sample(30, pads=10)
    text = torch.where(batch["target"].eq(1), batch["net_input"]["src_tokens"], batch["target"])
    expected = 0.0
    for row in text:
        alone = row[row.ne(1)].unsqueeze(0)
        outputs = [m.encoder.sentence_encoder(alone, return_all_hiddens=True) for m in (model, build(checkpoint()))]
        (ours, h), (theirs, t) = outputs
        errors = [(a - b).square().sum() / b.square().sum() for a, b in zip(h[1:], t[1:], strict=True)]
        cosine = torch.cosine_similarity(ours.mean(1), theirs.mean(1)).item()
        expected += 3 * sum(errors).item() / len(errors) + 2 * (1 - cosine)
    loss, _, _ = criterion(teacher, 3.0, 2.0)(model, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "sentence_encoder" in name)


def test_a_text_longer_than_the_teacher_reads_is_compared_chunk_by_chunk(teacher: Path) -> None:
    longer, batch = student(n=90, projected_length="90"), sample(70)
    text = torch.where(batch["target"].eq(1), batch["net_input"]["src_tokens"], batch["target"])
    features, hiddens, compared = criterion(teacher)._targets(text, torch.float32)
    assert compared.sum(1).tolist() == [68, 68] and not compared[:, 0].any() and not compared[:, -1].any()
    chunk = torch.cat([torch.tensor([0]), text[0, 30:60], torch.tensor([2])]).unsqueeze(0)
    expected = build(checkpoint()).encoder.sentence_encoder(chunk)[0]
    torch.testing.assert_close(features[0, 30:60], expected[0, 1:-1], rtol=0, atol=1e-5)
    loss, _, _ = criterion(teacher)(longer, batch)
    assert torch.isfinite(loss) and loss.item() > 0


def test_the_first_tokens_of_each_text_are_compared_as_a_text_of_their_own(teacher: Path) -> None:
    model, batch = student(), sample(30, pads=20)
    first = torch.where(batch["target"].eq(1), batch["net_input"]["src_tokens"], batch["target"])[:, :16].clone()
    first[0, -1] = 2  # the second text has ended before
    apart = {"net_input": {"src_tokens": first}, "target": torch.ones_like(first), "ntokens": 32}
    alone = [criterion(teacher)(model.eval(), part)[0].item() for part in (batch, apart)]
    loss, _, logged = criterion(teacher, short=16)(model, batch)
    assert loss.item() == pytest.approx(sum(alone), rel=1e-5)
    assert logged["short_cosine"].item() > logged["cosine"].item()


def test_a_resumed_run_draws_the_same_lengths_of_short_texts(teacher: Path) -> None:
    model, losses = student(dropout=0.0, attention_dropout=0.0).train(), []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(criterion(teacher, short=24)(model, sample(30))[0].item())
    assert losses[0] == losses[2] != losses[1]


def test_what_does_not_fit_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--hidden-weight -1.0 and --vector-weight 1.0"):
        criterion(teacher, -1.0)
    with pytest.raises(UsageError, match="--short-tokens 3: must be 0 or at least 8"):
        criterion(teacher, short=3)
    with pytest.raises(UsageError, match="has 40 symbols and DATA 41; binarise DATA with the teacher's"):
        DistillationLoss(task(41), str(teacher), 1.0, 1.0, 0)
    deeper = build(checkpoint(encoder_layers=3))
    with pytest.raises(UsageError, match="--teacher has 2 layers of 16 channels, the model 3 of 16"):
        criterion(teacher)(deeper, sample(20))


def test_the_teacher_is_not_part_of_the_criterion(teacher: Path) -> None:
    """Otherwise fairseq would train it, and write it into every checkpoint."""
    assert not list(criterion(teacher).parameters()) and not criterion(teacher).state_dict()
