"""A folder with a small valid input of every kind that a command reads."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml

RECIPE = """\
task: {_name: masked_lm, tokens_per_sample: 64}
criterion: {_name: masked_lm}
model: {_name: linformer_roberta_tiny, max_positions: 64, projected_length: "16"}
optimizer: {_name: adam}
optimization: {lr: [0.001], max_update: 1}
dataset: {batch_size: 4, disable_validation: true}
checkpoint: {no_save: true}
"""


def build(folder: Path) -> None:
    """Write texts, a corpus at every stage, a tokenizer, checkpoints, tables, a recipe and a submission."""
    import torch
    from transformers import BertConfig, BertModel

    from data_prep.__main__ import main as prepare
    from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, read, symbols, write
    from linformer_fairseq.checkpoints.huggingface import to_hf
    from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
    from linformer_fairseq.inference.predict import Labels
    from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

    chance = random.Random(0)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 8))) for _ in range(900)]
    (folder / "texts").mkdir(parents=True)
    for number in range(40):
        text = "\n".join(" ".join(chance.choices(words, k=20)) for _ in range(10))
        (folder / f"texts/{number}.txt").write_text(text)
    at = {name: str(folder / name) for name in ("corpus", "clean", "split", "tokenizer", "data")}
    for command in (
        ["extract", "--source", "text", str(folder / "texts"), "--out", at["corpus"]],
        ["clean", at["corpus"], "--out", at["clean"]],
        ["split", at["clean"], "--out", at["split"], "--valid", "0.3"],
        ["tokenizer", f"{at['split']}/train", "--out", at["tokenizer"], "--vocab-size", "320"],
        ["binarize", at["split"], "--tokenizer", at["tokenizer"], "--out", at["data"], "--max-item-tokens", "60"],
    ):
        assert prepare(command) == 0
    for name, attention in (("model", "linformer"), ("exact", "exact")):
        settings = {"_name": "linformer_roberta_tiny", "max_positions": 64, "projected_length": "16"}
        settings |= {"dropout": 0.0, "attention": attention, "encoder_layers": 1}
        whole = complete_settings(settings)
        torch.manual_seed(0)
        made = LinformerRobertaModel(whole, LinformerRobertaEncoder(whole, symbols(320)))
        task = {"_name": "masked_lm", "data": at["tokenizer"]}
        write(Checkpoint(made.state_dict(), settings, task, 7), folder / f"{name}.pt")
        if name == "model":
            made.register_classification_head(DEFAULT_HEAD, num_classes=2)
            notes = [Labels(("0", "1"), 1).note(folder / "tokenizer")]
            write(Checkpoint(made.state_dict(), settings, task, 7, notes), folder / "tuned.pt")
    write(read(folder / "model.pt"), folder / "model.safetensors")
    to_hf(read(folder / "model.pt"), folder / "tokenizer", folder / "hf", False, None, None)
    vocabulary = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertModel(BertConfig(vocab_size=len(vocabulary), **shape, max_position_embeddings=64))
    bert.save_pretrained(folder / "bert")
    (folder / "bert/vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "bert/tokenizer_config.json").write_text('{"do_lower_case": true}')
    rows = [(" ".join(chance.choices(words, k=9)), number % 2) for number in range(24)]
    (folder / "table.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    for name in ("queries", "corpus"):
        lines = (json.dumps({"_id": str(number), "title": "", "text": text}) for number, (text, _) in enumerate(rows))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels.tsv").write_text("0 0 1 2\n")
    (folder / "words.conll").write_text(
        "".join(f"{word} {'BO'[number % 2]}\n" for number, word in enumerate(words[:8]))
    )
    answers = [{"text": words[0], "answer_start": 0}]
    paragraph = {"context": " ".join(words[:8]), "qas": [{"id": "1", "question": words[1], "answers": answers}]}
    (folder / "questions.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    (folder / "glue/RTE").mkdir(parents=True)
    for name in ("train", "dev"):
        lines = (
            f"{n}\t{text}\t{text}\t{('not_entailment', 'entailment')[label]}\n" for n, (text, label) in enumerate(rows)
        )
        (folder / f"glue/RTE/{name}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "pipeline.yaml").write_text(
        yaml.safe_dump({"sources": [{"source": "text", "inputs": [str(folder / "texts")]}]})
    )
    (folder / "submissions/one").mkdir(parents=True)
    (folder / "submissions/one/submission.json").write_text(json.dumps({"jobs": []}))
    (folder / "nothing").mkdir()
    (folder / "run").mkdir()
    (folder / "run/metrics.jsonl").write_text('{"split": "train", "update": 1, "start": 1, "loss": 1.0}\n')
    (folder / "empty").touch()
    (folder / "garbage").write_bytes(bytes(range(256)) * 8)
    bomb = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (folder / "bomb.yaml").write_text("\n".join(bomb) + "\n")
