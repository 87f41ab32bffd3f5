"""Fine-tuning on pairs of a query and its passage; fairseq-train trains. The result is for sentence-transformers."""

import shutil
from collections.abc import Mapping
from functools import partial

from linformer_fairseq.checkpoints.checkpoint import CONTRASTIVE, encoder_config, read
from linformer_fairseq.checkpoints.huggingface import to_hf
from linformer_fairseq.finetuning.data import write_items
from linformer_fairseq.finetuning.heads import FOLDER
from linformer_fairseq.finetuning.retrieval import Retrieval, by_bm25, by_model, scored
from linformer_fairseq.finetuning.train import MODEL, Result, Run, finished, read_result, run_training, write_scored
from linformer_fairseq.inference.sequences import dictionary_digest, encode, tokenizer_of
from linformer_fairseq.io.records import begun
from linformer_fairseq.paths import RECIPES

RECIPE = RECIPES / "finetune/contrastive.yaml"


def finetune_pairs(
    run: Run, evaluations: Mapping[str, Retrieval], pooling: str, temperature: float, chunk_rows: int
) -> Result:
    """Train or resume, score, and write `model.pt`, the folder `model`, and `result.json`, as `train.finetune`.

    The epoch is chosen by the first metric on the pairs of the table after `train`, as `--criterion contrastive` has it
    of batches of up to 4,096 pairs. `chunk_rows` changes no result.
    """
    if (done := read_result(run)) is not None:
        return done
    source = read(run.checkpoint)
    tokenizer, folder = tokenizer_of(source, run.data), run.data or source.data
    begun(run.out / "finetune.json", run.settings())
    longest = encoder_config(source).max_positions
    train, dev = [table.texts for table in run.tables.values()][:2]
    pairs = [row[:2] for row in dev if row[0]]
    for split, rows in (("train", train), ("valid", pairs)):
        for number, column in enumerate(zip(*rows, strict=True)):
            ids = encode([(text,) for text in column], tokenizer, longest).ids
            write_items(run.out / f"data/text{number}/{split}", ids)
    shutil.copyfile(folder / "dict.txt", run.out / "data/dict.txt")
    settings = {"temperature": temperature, "first_token": pooling == "first", "chunk_rows": chunk_rows}
    overrides = {f"criterion.{name}": value for name, value in settings.items()} | {
        "task.tokens_per_sample": longest,
        "dataset.batch_size_valid": min(len(pairs), 4096),
        "checkpoint.best_checkpoint_metric": run.metrics[0],
        "checkpoint.maximize_best_checkpoint_metric": True,
    }
    run_training(run, source, RECIPE, len(train), overrides)
    tuned = read(run.out / "checkpoints/checkpoint_best.pt")
    note = {"conversion": CONTRASTIVE, "pooling": pooling, "dictionary": dictionary_digest(folder)}
    tuned.notes, tuned.task = [*source.notes, note], {**source.task, "data": str(folder)}
    ways = [*(partial(by_model, model, run.data, pooling) for model in (tuned, source)), partial(by_bm25)]
    scores, before, bm25 = (
        {name: scored(one, way(one), run.metrics) for name, one in evaluations.items()} for way in ways
    )
    write_scored(tuned, scores, run)
    to_hf(tuned, folder, run.out / FOLDER, force=True)
    counts = {"train": len(train), **{name: len(one.queries) for name, one in evaluations.items()}}
    beside = {"constant": before, "linear": bm25, "names": {"constant_name": "before training", "linear_name": "BM25"}}
    return finished(run, [MODEL, f"{FOLDER}/model.safetensors"], scores=scores, rows=counts, **beside)
