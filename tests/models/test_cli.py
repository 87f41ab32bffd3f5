"""A small Linformer through fairseq's own programs, from pretraining to a fine-tuned classifier."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from linformer_fairseq.models import LinformerRobertaModel

ROOT = Path(__file__).parents[2]
USER_DIR = str(ROOT / "linformer_fairseq")
RunFairseq = Callable[..., CompletedProcess[str]]
Srun = tuple[tuple[object, ...], dict[str, str]]

SMALL = ["--user-dir", USER_DIR, "--arch", "linformer_roberta_tiny", "--max-positions", "64"]
SMALL += ["--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64", "--projected-length", "16"]
PRETRAIN = ["--task", "masked_lm", "--criterion", "masked_lm", "--tokens-per-sample", "64", "--batch-size", "4"]
OPTIMIZER = ["--optimizer", "adam", "--lr", "1e-3", "--log-format", "json", "--log-interval", "1"]


@pytest.fixture(scope="module")
def pretrained(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq
) -> tuple[Path, CompletedProcess[str]]:
    """A checkpoint after 4 updates, and what fairseq-train printed."""
    folder = tmp_path_factory.mktemp("pretrained")
    flags = [*SMALL, *PRETRAIN, *OPTIMIZER, "--max-update", "4", "--no-epoch-checkpoints"]
    return folder / "checkpoint_last.pt", run_fairseq("fairseq-train", tiny_data, *flags, "--save-dir", folder)


@pytest.mark.slow
def test_validate_resume_and_fill_a_mask(
    pretrained: tuple[Path, CompletedProcess[str]], tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    checkpoint, trained = pretrained
    assert '"valid_ppl"' in trained.stdout
    flags = ["--user-dir", USER_DIR, "--task", "masked_lm", "--path", checkpoint, "--log-format", "json"]
    validated = run_fairseq("fairseq-validate", tiny_data, *flags, "--batch-size", "4")
    assert '"valid_ppl"' in validated.stdout

    flags = [*SMALL, *PRETRAIN, *OPTIMIZER, "--max-update", "6", "--no-epoch-checkpoints", "--save-dir", tmp_path]
    resumed = run_fairseq("fairseq-train", tiny_data, *flags, "--restore-file", checkpoint)
    assert "@ 4 updates" in resumed.stdout

    hub = LinformerRobertaModel.from_pretrained(str(checkpoint.parent), checkpoint.name, str(tiny_data), bpe=None)
    words = hub.task.source_dictionary
    sentence = torch.tensor([words.bos(), words.nspecial, words.index("<mask>"), words.eos()])
    assert hub.extract_features(sentence).shape == (1, 4, 32)
    with torch.no_grad():
        logits, _ = hub.model(sentence[None])
    assert logits.shape == (1, 4, len(words))
    with pytest.raises(ValueError, match="65.*64|64.*65"):
        hub.extract_features(torch.full((65,), words.nspecial))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--encoder-layerdrop", "0.5", "--untie-weights-roberta", "--checkpoint-activations"],
        ["--projection-sharing", "none", "--projection", "conv"],
    ],
    ids=["layerdrop-untied-checkpointed", "conv-per-head"],
)
def test_default_ddp_meets_no_idle_parameter(
    flags: list[str], tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq, srun: Srun
) -> None:
    launcher, environment = srun
    command = [*SMALL, *PRETRAIN, *OPTIMIZER, *flags, "--max-update", "6", "--disable-validation", "--no-save"]
    trained = run_fairseq(*launcher, "fairseq-train", tiny_data, *command, "--save-dir", tmp_path, env=environment)
    assert trained.stdout.count("| train_inner |") == 6


@pytest.fixture(scope="module")
def labelled_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq) -> Path:
    """A binarised two-class set in the form of fairseq's sentence_prediction."""
    raw, binarised = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("labelled")
    words = [line.split()[0] for line in (tiny_data / "dict.txt").read_text().splitlines()][:40]
    draw = random.Random(0)
    for split, size in (("train", 32), ("valid", 8)):
        labels = [i % 2 for i in range(size)]
        lines = [" ".join(draw.choices(words[label::2], k=draw.randint(3, 20))) for label in labels]
        (raw / f"{split}.input0").write_text("".join(line + "\n" for line in lines))
        (raw / f"{split}.label").write_text("".join(f"{label}\n" for label in labels))
    for part, dictionary in (("input0", ["--srcdict", tiny_data / "dict.txt"]), ("label", [])):
        prefixes = ["--trainpref", raw / f"train.{part}", "--validpref", raw / f"valid.{part}"]
        run_fairseq("fairseq-preprocess", "--only-source", *prefixes, "--destdir", binarised / part, *dictionary)
    return binarised


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_fine_tuning_a_classifier(
    processes: int,
    pretrained: tuple[Path, CompletedProcess[str]],
    labelled_data: Path,
    tmp_path: Path,
    run_fairseq: RunFairseq,
    srun: Srun,
) -> None:
    launcher, environment = srun if processes == 2 else ((), {})
    flags = [*SMALL, *OPTIMIZER, "--task", "sentence_prediction", "--criterion", "sentence_prediction"]
    flags += ["--num-classes", "2", "--init-token", "0", "--batch-size", "4", "--required-batch-size-multiple", "1"]
    flags += ["--restore-file", pretrained[0], "--reset-optimizer", "--reset-dataloader", "--reset-meters"]
    flags += ["--max-update", "4", "--save-dir", tmp_path, "--best-checkpoint-metric", "accuracy"]
    flags += ["--maximize-best-checkpoint-metric"]
    tuned = run_fairseq(*launcher, "fairseq-train", labelled_data, *flags, env=environment)
    assert tuned.stdout.count(f"training on {processes} devices") == 1 and '"valid_accuracy"' in tuned.stdout
    assert (tmp_path / "checkpoint_best.pt").exists()


def test_hydra_trains_a_recipe_with_its_architecture(tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq) -> None:
    overrides = ["task.tokens_per_sample=64", "+model.encoder_embed_dim=32", "+model.max_positions=64"]
    overrides += ["+model.projected_length=16", "optimization.max_update=2", "dataset.disable_validation=true"]
    overrides += ["common.log_interval=1"]
    trained = run_fairseq(
        *("fairseq-hydra-train", "--config-dir", ROOT / "recipes/pretrain", "--config-name", "tiny_n512_k128"),
        *(f"task.data={tiny_data}", f"common.user_dir={USER_DIR}", f"checkpoint.save_dir={tmp_path}", *overrides),
        cwd=tmp_path,
    )
    assert '"num_updates": "2"' in trained.stdout
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["model"]["encoder.sentence_encoder.E.weight"].shape == (16, 64)
    assert "encoder.sentence_encoder.layers.1.self_attn.local_conv.conv.weight" in state["model"]


def test_the_commands_of_fairseqs_example_still_work(tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq) -> None:
    flags = ["--arch", "linformer_roberta_base", "--compressed", "4", "--shared-kv-compressed", "1"]
    flags += ["--encoder-layers", "2", "--encoder-embed-dim", "32", "--encoder-attention-heads", "2"]
    flags += ["--user-dir", USER_DIR, *PRETRAIN, *OPTIMIZER, "--max-update", "2", "--save-dir", tmp_path]
    trained = run_fairseq("fairseq-train", tiny_data, *flags, "--no-save", "--disable-validation")
    assert "--projected-length 16 --projection-sharing key-value" in trained.stdout


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--projected-length", "100"], "--projected-length 100 does not lie between 1 and --max-positions 64"),
        (["--projected-length", "16,8"], "cannot serve --projected-length 16,8"),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence(
    flags: list[str], sentence: str, tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    command = [*SMALL, *PRETRAIN, *OPTIMIZER, *flags, "--save-dir", tmp_path]
    refused = run_fairseq("fairseq-train", tiny_data, *command, check=False)
    assert refused.returncode != 0
    assert sentence in refused.stdout.strip().splitlines()[-1]
    assert "Traceback" not in refused.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_training_gives_the_same_and_loads_without_compiling(
    tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    flags = [*SMALL, *PRETRAIN, *OPTIMIZER, "--max-update", "2", "--dropout", "0", "--attention-dropout", "0"]
    flags += ["--encoder-layers", "1", "--disable-validation"]
    for name, more in (("eager", []), ("compiled", ["--compile"])):
        run_fairseq("fairseq-train", tiny_data, *flags, *more, "--save-dir", tmp_path / name)
    eager, compiled = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("eager", "compiled")
    )
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    hub = LinformerRobertaModel.from_pretrained(
        str(tmp_path / "compiled"), "checkpoint_last.pt", str(tiny_data), bpe=None
    )
    assert hub.model.args.compile and not hub.model._compiled


@pytest.mark.slow
def test_compiling_without_a_compiler_is_one_sentence(
    tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    flags = [*SMALL, *PRETRAIN, *OPTIMIZER, "--max-update", "2", "--compile", "--save-dir", tmp_path]
    refused = run_fairseq("fairseq-train", tiny_data, *flags, check=False)
    assert refused.returncode != 0 and "Traceback" not in refused.stdout
    assert "--compile needs a C++ compiler" in refused.stdout.strip().splitlines()[-1]
