"""Installation of linformer_fairseq and data_prep; `make` does it in `.venv` with the tested versions."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

PACKAGE = Path(__file__).resolve().parent / "linformer_fairseq"
VERSION = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "version.py").read_text(), re.MULTILINE)
DOCS = ["mkdocs-material", "mkdocstrings[python]", "rich"]
ROOMS = ["linformer_fairseq", "linformer_fairseq.*", "data_prep", "data_prep.*"]
# Packages whose files are elsewhere: hydra looks for plugins in a namespace package, paths.py for the rest in the wheel
ELSEWHERE = {
    "hydra_plugins": "linformer_fairseq/hydra_plugins",
    "linformer_fairseq.recipes.pretrain": "recipes/pretrain",
    "linformer_fairseq.recipes.finetune": "recipes/finetune",
    "linformer_fairseq.slurm": "slurm",
}

setup(
    name="linformer-fairseq",
    version=VERSION[1],
    description="Linformer text encoders with fairseq: raw text to pretrained and fine-tuned models",
    author="linformer_fairseq contributors",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=[*find_namespace_packages(include=ROOMS, exclude=["*.hydra_plugins", "*.configs"]), *ELSEWHERE],
    package_dir=ELSEWHERE,
    package_data={
        "": ["py.typed", "*.yaml", "*.sh"],
        "linformer_fairseq": ["checkpoints/*.md", "io/*.html", "io/*.js"],
        "data_prep": ["configs/*.yaml", "sources/*.json"],
    },
    entry_points={"console_scripts": ["linformer = linformer_fairseq.cli:main"]},
    install_requires=[
        "torch>=2.11",
        "ve-fairseq==0.12.3",  # provides the module fairseq; it has wheels for Python 3.11 and 3.12
        *("numpy>=2", "sentencepiece", "pyarrow", "pyyaml", "omegaconf", "ftfy", "datasketch", "scipy"),
        *("scikit-learn", "tokenizers", "tqdm", "matplotlib", "requests", "urllib3>=2.8", "charset-normalizer"),
        *("regex", "pillow"),
    ],
    extras_require={
        "hf": ["transformers>=4.48", "safetensors", "tokenizers", "protobuf"],  # protobuf reads sentencepiece's models
        "release": ["transformers>=4.48", "safetensors", "tokenizers", "protobuf", "onnx"],
        "slurm": ["submitit"],
        "report": ["plotly", "py3langid"],
        "cluster": ["distributed"],
        "remote": ["universal_pathlib", "s3fs", "gcsfs"],  # huggingface_hub reads hf://
        "docs": DOCS,
        "dev": [
            *("mwparserfromhell", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "submitit"),
            *("transformers>=4.48", "safetensors", "protobuf", "accelerate", "peft", "sentence-transformers"),
            *("onnx", "onnxscript", "onnxruntime", *DOCS, "selenium", "plotly", "py3langid", "distributed"),
            *("universal_pathlib", "tensorboardX"),
        ],
    },
)
