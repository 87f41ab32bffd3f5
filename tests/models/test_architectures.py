"""Each named architecture: builds, trains two updates with fairseq's trainer, saves and reloads; two at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

from linformer_fairseq.models.architectures import ARCHITECTURES

USER_DIR = str(Path(__file__).parents[2] / "linformer_fairseq")


FULL = ("linformer_roberta_tiny", "linformer_roberta_base_n4096_k256")


def test_large_has_robertas_sizes() -> None:
    large = ARCHITECTURES["linformer_roberta_large"]
    sizes = [large[f"encoder_{name}"] for name in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")]
    assert sizes == [24, 1024, 4096, 16]


@pytest.mark.slow
@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_two_updates_and_back(arch: str, tiny_data: Path, tmp_path: Path) -> None:
    flags = f"{tiny_data} --user-dir {USER_DIR} --task masked_lm --criterion masked_lm --arch {arch} --cpu"
    flags += " --tokens-per-sample 64 --optimizer adam --lr 1e-3 --no-save-optimizer-state --batch-size 1"
    flags += "" if arch in FULL else " --encoder-layers 2"  # the others differ in n, k or width
    args = options.parse_args_and_arch(options.get_training_parser(), flags.split())
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    tokens = torch.randint(task.source_dictionary.nspecial, len(task.source_dictionary), (1, 16))
    sample = {
        "net_input": {"src_tokens": tokens},
        "target": tokens,
        "ntokens": 16,
        "nsentences": 1,
    }
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        trainer.train_step([sample])
    assert trainer.get_num_updates() == 2
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    # A bias of the keys moves every score of a query alike, so it has no gradient; unused positions have none either.
    assert all(name.endswith("k_proj.bias") for name in still)

    file = tmp_path / "checkpoint.pt"
    trainer.save_checkpoint(str(file), {})
    (reloaded,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(file)], task=task)
    assert reloaded.encoder.cfg == model.encoder.cfg
    for name, value in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value)
