"""Training runs with the task by the real commands: stopped anywhere, they end bit for bit like an undisturbed one."""

import shutil
import signal

import pytest
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.tasks import StreamingMaskedLMConfig, StreamingMaskedLMTask
from linformer_fairseq.training.recipe import fairseq_train_argv
from linformer_fairseq.training.signals import REQUEUE

TASK = ("--user-dir", USER_DIR, "--task", "streaming_masked_lm", "--criterion", "masked_lm", "--cpu")
TINY = [
    *("--arch", "linformer_roberta_tiny", "--encoder-layers", 1, "--encoder-embed-dim", 32),
    *("--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2, "--projected-length", 16, "--dropout", 0.1),
    *("--tokens-per-sample", 64, "--batch-size", 8, "--optimizer", "adam", "--lr-scheduler", "fixed", "--lr", "1e-3"),
    *("--log-format", "json", "--log-interval", 1, "--no-epoch-checkpoints", "--disable-validation"),
]


@pytest.fixture(scope="module")
def shards(tiny_data, tmp_path_factory):
    """Two folders joined by a colon: 9 updates of 32 samples in the first, one in the second."""
    second = tmp_path_factory.mktemp("shards") / "second"
    second.mkdir()
    shutil.copy(tiny_data / "dict.txt", second)
    for suffix in ("bin", "idx"):
        shutil.copy(tiny_data / f"valid.{suffix}", second / f"train.{suffix}")
    return f"{tiny_data}:{second}"


@pytest.fixture(scope="module")
def whole(run_fairseq, shards, tmp_path_factory):
    """An undisturbed training run into epoch 3."""
    folder = tmp_path_factory.mktemp("whole")
    run_fairseq("fairseq-train", shards, *TASK, *TINY, *COMPLETE, "--save-dir", folder)
    return folder


COMPLETE = (
    "--sample-break-mode",
    "complete",
    "--batch-size",
    16,
    "--update-freq",
    2,
    "--max-update",
    13,
    "--num-workers",
    0,
)


@pytest.mark.slow
def test_stopped_and_interrupted_it_ends_where_it_would_have_ended(
    run_fairseq, start_fairseq, shards, whole, same_end, tmp_path
):
    """Stopped by --max-update, then by SIGTERM, each time resumed with other workers."""
    train = ("fairseq-train", shards, *TASK, *TINY, *COMPLETE, "--save-dir", tmp_path)
    run_fairseq(*train, "--max-update", 4, "--num-workers", 2, "--save-interval-updates", 2)
    assert (tmp_path / "checkpoint_1_2.pt").exists()
    with start_fairseq(*train, "--num-workers", 1, "--save-interval-updates", 3) as run:
        log = ""
        for line in run.stdout:
            log += line
            if '"num_updates": "6"' in line:
                run.send_signal(signal.SIGTERM)
    assert run.returncode == REQUEUE, log[-3000:]
    done = run_fairseq(*train)
    assert '"epoch": 3' in done.stdout and '"num_updates": "13"' in done.stdout
    same_end(whole, tmp_path)


@pytest.mark.slow
def test_two_processes_end_where_they_would_have_ended(run_fairseq, parse_losses, shards, same_end, srun, tmp_path):
    launcher, environment = srun
    train = (*launcher, "fairseq-train", shards, *TASK, *TINY, "--max-update", 16)
    straight = run_fairseq(*train, "--save-dir", tmp_path / "straight", env=environment)
    stopped = (*train, "--save-dir", tmp_path / "stopped")
    run_fairseq(*stopped, "--max-update", 6, "--num-workers", 2, env=environment)
    rest = run_fairseq(*stopped, "--num-workers", 0, env=environment)
    assert parse_losses(straight.stdout)[6:] == parse_losses(rest.stdout)
    same_end(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.slow
def test_it_learns_what_masked_lm_learns_and_all_of_valid_is_scored(run_fairseq, parse_losses, tiny_data, tmp_path):
    flags = [*TINY[:-1], "--max-update", 60, "--batch-size", 16, "--local-conv", 9, "--lr", "1e-2", "--max-epoch", 8]
    runs = {}
    for task in ("streaming_masked_lm", "masked_lm"):
        argv = ("fairseq-train", tiny_data, *TASK, *flags, "--task", task, "--save-dir", tmp_path / task)
        runs[task] = run_fairseq(*argv).stdout
    (*_, (_, ours)), (*_, (_, theirs)) = (parse_losses(output, "valid") for output in runs.values())
    assert ours == pytest.approx(theirs, rel=0.1) and ours < 3.5  # bits; chance is 5.5

    validate = ("fairseq-validate", tiny_data, *TASK, "--log-format", "json", "--batch-size", 3)
    validated = run_fairseq(*validate, "--path", tmp_path / "streaming_masked_lm" / "checkpoint_last.pt").stdout
    assert float(validated.split('"valid_loss": "')[1][:5]) == pytest.approx(ours, abs=2e-3)


def test_hydra_and_recipes_know_it(run_fairseq, tiny_data, tmp_path):
    config = {
        "common": {"cpu": True, "log_format": "json", "log_interval": 1},
        "task": {"_name": "streaming_masked_lm", "data": "???", "tokens_per_sample": 64, "sample_break_mode": "eos"},
        "criterion": "masked_lm",
        "dataset": {"max_tokens": 600, "disable_validation": True},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"lr": [0.001], "max_update": 2},
        "model": {"_name": "linformer_roberta_tiny", "encoder_layers": 1, "encoder_embed_dim": 32},
        "checkpoint": {"no_save": True},
    }
    OmegaConf.save(OmegaConf.create({**config}), tmp_path / "small.yaml")
    argv = fairseq_train_argv(tmp_path / "small.yaml", tiny_data, tmp_path / "run")
    assert argv[argv.index("--task") : argv.index("--task") + 2] == ["--task", "streaming_masked_lm"]
    (tmp_path / "small.yaml").write_text("# @package _group_\n" + (tmp_path / "small.yaml").read_text())
    trained = run_fairseq(
        *("fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "small", f"task.data={tiny_data}"),
        *(f"common.user_dir={USER_DIR}", f"checkpoint.save_dir={tmp_path}/run", f"hydra.run.dir={tmp_path}/hydra"),
    )
    assert '"bsz": "9"' in trained.stdout and '"num_updates": "2"' in trained.stdout


def test_a_wrong_folder_ends_in_one_sentence(run_fairseq, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "other")
    (tmp_path / "other" / "dict.txt").write_text("another 1\n")
    argv = ("fairseq-train", f"{tiny_data}:{tmp_path}/other", *TASK, *TINY, "--save-dir", tmp_path / "run")
    refused = run_fairseq(*argv, check=False)
    last = refused.stdout.strip().splitlines()[-1]
    assert refused.returncode == 1 and "Traceback" not in refused.stdout
    assert last.startswith(f"error: DATA {tmp_path}/other: its dict.txt has other symbols than that of {tiny_data}")


def task_of(data, **settings):
    return StreamingMaskedLMTask.setup_task(StreamingMaskedLMConfig(data=str(data), seed=1, **settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tokens_per_sample": 2}, "--tokens-per-sample 2"),
        ({"mask_prob": 1.0}, "--mask-prob 1.0"),
        ({"valid_mask_prob": 0.0}, "--valid-mask-prob 0.0"),
        ({"leave_unmasked_prob": 0.6, "random_token_prob": 0.6}, "--leave-unmasked-prob 0.6 and --random-token-prob"),
    ],
)
def test_wrong_settings_are_named(tiny_data, settings, named):
    with pytest.raises(UsageError, match=named):
        task_of(tiny_data, **settings)


def test_validation_has_its_own_share_of_masked_tokens(tiny_data):
    task = task_of(tiny_data, tokens_per_sample=64, mask_prob=0.5)
    shares = {}
    for split in ("train", "valid"):
        task.load_dataset(split)
        batch = task.get_batch_iterator(task.dataset(split), max_sentences=16).first_batch
        shares[split] = (batch["target"] != 1).sum().item() / batch["ntokens"]
    assert shares == {"train": pytest.approx(0.5, abs=0.1), "valid": pytest.approx(0.15, abs=0.05)}


def test_wrong_data_are_named(tiny_data, tmp_path):
    with pytest.raises(UsageError, match=r"dict\.txt: No such file or directory; DATA must be"):
        task_of(tmp_path)
    task = task_of(tiny_data)
    with pytest.raises(UsageError, match=r"test\.idx: no such file"):
        task.load_dataset("test")
    for name in ("dict.txt", "train.idx", "train.bin"):
        shutil.copy(tiny_data / name, tmp_path / name)
    (tmp_path / "train1.idx").touch()
    with pytest.raises(UsageError, match=r"train1\.idx: a split in several files"):
        task_of(tmp_path).load_dataset("train", combine=True)


def test_a_batch_needs_room_for_a_sample(tiny_data):
    task = task_of(tiny_data, tokens_per_sample=64)
    task.load_dataset("train")
    data = task.dataset("train")
    assert task.get_batch_iterator(data, max_tokens=640, max_sentences=20).first_batch["nsentences"] == 10
    for sizes in ({"max_tokens": 63}, {}):
        with pytest.raises(UsageError, match="with room for a sample of --tokens-per-sample 64"):
            task.get_batch_iterator(data, **sizes)
