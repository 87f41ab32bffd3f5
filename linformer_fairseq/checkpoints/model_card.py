"""README.md of an exported folder: what the model is and how to use it, and what its maker has still to fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CARD = """\
---
library_name: transformers
pipeline_tag: {task}
license: other  # replace by the licence under which you give the model away
tags:
- linformer
---

# {name}

A text encoder whose attention projects the keys and values of n tokens along the sequence to k
([Linformer](https://arxiv.org/abs/2006.04768), Wang et al. 2020), made with linformer_fairseq.

| | |
|---|---|
{table}

## Use

Needs transformers 5 and torch, and nothing else. The folder has its own code, hence `trust_remote_code`.

```python
{usage}
```

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
features = model(**tokenizer("A sentence.", return_tensors="pt")).last_hidden_state
```

It reads up to {length} tokens, padded on the right. It returns no attention maps and takes no token types. It trains
under `Trainer`, with gradient checkpointing and bf16.

## Data, evaluation, limits

To be filled in: which text it was trained on, what was measured on which data, and what it must not be used for.
"""

_FILL_MASK = """\
from transformers import pipeline

fill = pipeline("fill-mask", model="{name}", trust_remote_code=True)
fill("A sentence with a <mask> in it.")"""

_CLASSIFY = """\
from transformers import pipeline

classify = pipeline("text-classification", model="{name}", trust_remote_code=True)
classify("A sentence.")"""

_LEFT_OUT = ("file", "digest")


def model_card(name: str, about: Mapping[str, Any], length: int, labels: Sequence[str] | None) -> str:
    """The text of the card.

    Args:
        name: of the folder.
        about: what is known of the model, by what it is called.
        length: longest input in tokens.
        labels: names of the classes of its classification head; None without one.
    """
    rows = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in about.items()}
    if labels:
        rows["classes"] = ", ".join(labels)
    return _CARD.format(
        name=name,
        task="text-classification" if labels else "fill-mask",
        table="\n".join(f"| {key} | {value} |" for key, value in rows.items() if key not in _LEFT_OUT),
        usage=(_CLASSIFY if labels else _FILL_MASK).format(name=name),
        length=f"{length:,}",
    )
