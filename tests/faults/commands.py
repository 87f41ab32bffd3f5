"""Every command, with an invocation that works and what the rules of `invocations.py` cannot know."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.faults.invocations import TRAIN, Command

ROOT = Path(__file__).parents[2]
COMMANDS = [
    Command("linformer demo", "--out out", runs=False, wrong=("--packages {w}/no-such", "--packages {w}/garbage")),
    Command(
        "linformer train",
        "{w}/recipe.yaml {w}/data --save-dir out",
        wrong=("--save-dir out -- --lr nan", "--save-dir out -- --no-such-flag 3", "--save-dir out -- --lr"),
    ),
    Command(
        "linformer distill", "{w}/exact.pt {w}/model.pt {w}/data --save-dir out", "--recipe {w}/recipe.yaml", runs=False
    ),
    Command("linformer convert inspect", "{w}/model.pt"),
    Command("linformer convert from-official", "{w}/model.pt out.pt", runs=False),
    Command(
        "linformer convert from-roberta",
        "{w}/exact.pt out.pt --projected-length 16",
        "--sample {w}/data",
        wrong=(
            "--projected-length 0",
            "--projected-length -1",
            "--projected-length x",
            "--projected-length 65",
            "--projected-length 16,16",
            "--projected-length 1,2,",
            "--init svd",
            "--transfer 5",
            "--projection-sharing layerwise --projected-length 4,8",
            "--projection mean-pool --projected-length 5",
            "--projection adaptive --projected-length 2",
            "--attention exact --local-window 4",
            "--attention exact --projection conv",
            "--attention exact --transfer 3 --sample {w}/data",
        ),
        fine=("--local-window 0", "--transfer 0"),
    ),
    Command(
        "linformer convert from-bert",
        "{w}/bert out.pt --projected-length 16",
        "--sample {w}/data",
        fine=("--local-window 0", "--transfer 0"),
    ),
    Command(
        "linformer convert extend",
        "{w}/model.pt out.pt --max-positions 128",
        wrong=(
            "--projected-length 0",
            "--projected-length 129",
            "--projected-length x",
            "--max-positions 8",
            "--method tile --projected-length 1,2",
        ),
    ),
    Command(
        "linformer convert to-hf",
        "{w}/model.pt out",
        "--data {w}/tokenizer",
        wrong=("--head nothing", "--labels a b", "--labels a a"),
    ),
    Command("linformer convert from-hf", "{w}/hf out.pt"),
    Command("linformer convert to-safetensors", "{w}/model.pt out.safetensors"),
    Command("linformer convert from-safetensors", "{w}/model.safetensors out.pt"),
    Command(
        "linformer choose-k",
        "{w}/exact.pt {w}/texts --data {w}/tokenizer --passages 2 --error 2",
        wrong=("--error 0", "--max-positions 15"),
    ),
    Command(
        "linformer finetune train",
        "--checkpoint {w}/model.pt --train {w}/table.tsv --dev {w}/table.tsv --out out --epochs 1",
        "--data {w}/tokenizer --test {w}/table.tsv",
        wrong=(
            "--lr 0",
            "--dev-share 0",
            "--dev-share 1",
            "--text-column a b c",
            "--text-column text text",
            "--text-column no-such",
            "--label-column no-such",
            "--label-column text",
            "--regression --label-column text",
            "--dev-share 0.3 --dev {w}/table.tsv",
        ),
    ),
    Command(
        "linformer finetune predict",
        "--checkpoint {w}/tuned.pt --input {w}/table.tsv --out out.tsv",
        "--data {w}/tokenizer",
    ),
    Command(
        "linformer glue",
        "--checkpoint {w}/model.pt --glue-dir {w}/glue --tasks RTE --seeds 1 --epochs 1 --out out",
        "--data {w}/tokenizer",
        wrong=(
            "--tasks no-such",
            "--tasks RTE,RTE",
            "--tasks RTE,",
            "--tasks MRPC",
            "--lr 0",
            "--lr 1e-5 1e-5",
            "--batch-size 8 8",
            "--batch-size 8 0",
            "--beside {w}/nothing",
            "--beside a={w}/no-such",
            "--beside a=",
            "--test",
        ),
    ),
    Command(
        "linformer encode",
        "--checkpoint {w}/model.pt --input {w}/table.tsv --out out.parquet",
        "--data {w}/tokenizer",
        wrong=(
            "--predict",
            "--pooling mean --predict",
            "--keep head --predict",
            "--keep chunks --text-column text label",
            "--text-column a b c",
            "--text-column no-such",
            "--keep-columns no-such",
            "--keep-columns label label",
            "--keep-columns vector",
            "--quantize --compile",
            "--quantize --device cuda",
            "--device no-such",
            "--device cuda:99",
            "--device meta",
        ),
    ),
    Command(
        "linformer launch pretrain",
        "--recipe {w}/recipe.yaml --data {w}/data --save-dir out --free-gb 0 --dry-run",
        wrong=(
            "--sweep seed=1",
            "--sweep common.seed=",
            "--sweep common.seed=1,,2",
            "--sweep common.seed=1,1",
            "--sweep common.no_such=1,2",
            "--sweep no_such.seed=1,2",
            "--sweep common.seed=x,y",
            "--sweep task.data=a,b",
            "--sweep checkpoint.save_dir=a,b",
            "--hours 0",
            "--partition=",
            "--local --no-such-flag-of-fairseq 3",
        ),
        fine=("--gpus 0", "--free-gb x"),
    ),
    Command(
        "linformer launch finetune",
        "--checkpoint {w}/model.pt --glue-dir {w}/glue --out out --dry-run",
        fine=("--gpus 0",),
    ),
    Command("linformer launch prepare", "{w}/pipeline.yaml --out out --dry-run", fine=("--gpus 0",)),
    Command("linformer launch status", "--folder {w}/submissions", wrong=("{w}/nothing",)),
    Command("linformer launch logs", "--folder {w}/submissions"),
    Command("linformer launch cancel", "--folder {w}/submissions", runs=False),
    Command("linformer launch script", "pretrain"),
    Command("linformer env", "--path", wrong=("--path --json",)),
    Command(
        "data_prep run",
        "{w}/pipeline.yaml --out out --workers 1",
        runs=False,
        wrong=(
            "--redo no-such",
            "no-such.key=3",
            "tokenizer.vocab_size=x",
            "tokenizer.vocab_size=0",
            "tokenizer.model=no-such",
            "split.valid=2",
            "split.valid=nan",
            "split.test=-1",
            "binarize.shards=0",
            "binarize.max_item_tokens=0",
            "file_characters=0",
            "on_error=no-such",
            "clean.min_words=x",
            "clean.max_symbols=nan",
            "clean.min_mean_word=nan",
            "dedup.threshold=2",
            "dedup.threshold=nan",
            "dedup.threshold=0",
            "dedup.permutations=0",
            "dedup.permutations=1000000000000",
            "dedup.words=0",
            "sources=null",
            "sources=[]",
            "tokenizer=null",
            "tokenizer.existing={w}/no-such",
            "decontaminate.folders=[{w}/no-such]",
            "sources.0.source=no-such",
            "sources.0.inputs=[]",
            "sources.0.name=../../x",
            "split.valid=0.6 split.test=0.6",
        ),
    ),
    Command(
        "data_prep download",
        "simple --out out",
        runs=False,
        wrong=("--mirror ftp://x", "--mirror x", "--date 2020", "--date x"),
    ),
    Command(
        "data_prep extract",
        "--source text --out out {w}/texts",
        wrong=(
            "--name ../../x",
            "--name=",
            "--encoding no-such",
            "--text-column text",
            "--on-error no-such",
            "--source docstrings {w}/no-such",
            "--source jsonl --document-end line {w}/texts",
            "--source text {w}/no-such",
            "--source text {w}/garbage",
            "--source text {w}/empty",
            "--source parquet {w}/garbage",
            "--source jsonl {w}/garbage",
            "--source wikipedia {w}/garbage",
            "--source books {w}/garbage",
        ),
    ),
    Command("data_prep clean", "{w}/corpus --out out", wrong=("--config no-such", "--config {w}/bomb.yaml")),
    Command("data_prep dedup", "{w}/corpus --out out", wrong=("--config no-such", "--config {w}/bomb.yaml")),
    Command("data_prep decontaminate", "{w}/corpus --out out --benchmarks {w}/glue"),
    Command(
        "data_prep split",
        "{w}/corpus --out out --valid 0.3",
        wrong=("--valid 1", "--valid 0.5 --test 0.5", "--valid 1e-9"),
    ),
    Command("data_prep tokenizer", "{w}/split/train --out out --vocab-size 320", "--import {w}/tokenizer"),
    Command("data_prep binarize", "{w}/split --tokenizer {w}/tokenizer --out out", wrong=("--shards 99",)),
    Command("data_prep inspect", "{w}/data", fine=("--samples 0", "--seed 0", "--seed -1", "--seed 1000000000000")),
    Command(
        "fairseq-train",
        TRAIN,
        zero=True,
        wrong=(
            "--arch no-such",
            "--task no-such",
            "--criterion no-such",
            "--optimizer no-such",
            "--projected-length 0",
            "--projected-length -4",
            "--projected-length 65",
            "--projected-length x",
            "--projected-length 16,8",
            "--projection no-such",
            "--projection adaptive --projected-length 2",
            "--projection mean-pool --projected-length 5",
            "--attention exact --local-window 4",
            "--attention local",
            "--local-conv 4",
            "--encoder-attention-heads 5",
            "--tokens-per-sample 128",
            "--compressed 4 --projected-length 8",
            "--compressed 0",
            "--mask-prob 1",
            "--mask-prob 0",
            "--leave-unmasked-prob 0.6 --random-token-prob 0.6",
            "--adam-betas x",
            "--adam-betas 0.9",
            "--adam-betas (1,2,3)",
            "--adam-betas (1,2)",
            "--adam-betas __import__('os').system('touch_ran')",
            "--update-freq 0",
            "--update-freq x",
            "--save-interval-updates -1",
            "--criterion distillation",
            "--criterion distillation --teacher {w}/no-such",
            "--criterion distillation --teacher {w}/garbage",
            "--criterion distillation --teacher {w}/exact.pt --hidden-weight -1",
            "--criterion distillation --teacher {w}/exact.pt --hidden-weight nan",
            "--batch-size 4 --max-tokens 3",
            "--lr-scheduler no-such",
            "--restore-file {w}/no-such.pt",
            "--finetune-from-model {w}/no-such.pt",
            "--finetune-from-model {w}/garbage",
            "--finetune-from-model {w}/nothing",
            "--train-subset no-such",
            "--distributed-world-size 0",
            *(f"--{name} 0" for name in ("batch-size", "max-tokens", "batch-size-valid", "tokens-per-sample")),
            *(f"--{name} 0" for name in ("required-batch-size-multiple", "validate-interval", "save-interval")),
            *(f"--{name} 0" for name in ("encoder-layers", "encoder-embed-dim", "max-positions", "log-interval")),
        ),
    ),
]


MEASURED = {
    **{
        "reproduce/table2_downstream": "{w}/data --glue-dir {w}/glue --imdb-dir {w}/glue",
        "reproduce/table3_efficiency": "",
    },
    **{"reproduce/figure1_spectrum": "{w}/exact.pt {w}/texts", "reproduce/figure3_perplexity": "{w}/data"},
    **{"measure/conversion": "roberta {w}/data {w}/exact.pt", "measure/preparation": "extraction {w}/garbage"},
    **{"measure/converted": "{w}/exact.pt --stsb {w}/glue --texts {w}/texts", "measure/long_documents": "{w}/exact.pt"},
    **{"measure/streaming_speed": "", "measure/update_speed": "{w}/data", "measure/same_loss": "{w}/data"},
    **{"measure/encode_speed": "", "measure/checkpoint_time": ""},
}
ZERO = ("--local-window 0", "--windows 0", "--warm-up 0", "--transfer-steps 0")
COMMANDS += [
    Command(f"recipes/{name}.py", f"{valid} --out out".strip(), runs=False, fine=ZERO, files=False)
    for name, valid in MEASURED.items()
]


def run(words: list[str]) -> int:
    """Run a command in this process as Python would; programs that it becomes or calls are run in it or in a fork."""
    os.execv = _become  # type: ignore[assignment]
    subprocess.call = _call  # type: ignore[assignment]
    program, *argv = words
    sys.argv = words
    if program.endswith(".py"):
        return int(runpy.run_path(str(ROOT / program))["MEASUREMENT"].main(argv))
    if program == "fairseq-train":
        return _become(program, words)
    if program == "linformer":
        from linformer_fairseq.cli import main
    else:
        from data_prep.__main__ import main
    return main(argv)


def _become(_: str, command: list[str]) -> Any:
    from fairseq_cli.train import cli_main

    sys.argv = command
    cli_main()
    raise SystemExit(0)


def _call(command: list[str]) -> int:
    module, *argv = [word for word in command[1:] if word not in ("-u", "-m")]
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.argv = ["", *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)
