"""Installation of linformer_fairseq and data_prep.

`pip install -c constraints.txt -e .[dev]` reproduces the tested environment; `make` does that in `.venv`.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "linformer_fairseq/version.py").read_text(), re.MULTILINE)

setup(
    name="linformer-fairseq",
    version=VERSION[1],
    description="Linformer text encoders with fairseq: raw text to pretrained and fine-tuned models",
    author="linformer_fairseq contributors",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=[
        *find_namespace_packages(
            include=["linformer_fairseq*", "data_prep*"], exclude=["*.hydra_plugins", "data_prep.configs"]
        ),
        "hydra_plugins",  # the namespace package where hydra looks for plugins
    ],
    package_dir={"hydra_plugins": "linformer_fairseq/hydra_plugins"},
    entry_points={"console_scripts": ["linformer = linformer_fairseq.cli:main"]},
    package_data={"linformer_fairseq": ["py.typed"], "data_prep": ["py.typed", "configs/*.yaml"]},
    install_requires=[
        "torch>=2.13",
        "ve-fairseq==0.12.3",  # provides the module fairseq; it has wheels for Python 3.11 and 3.12
        "numpy>=2",
        "sentencepiece",
        "pyarrow",
        "pyyaml",
        "omegaconf",
        "ftfy",
        "datasketch",
        "scipy",
        "scikit-learn",
        "tokenizers",
        "tqdm",
        "matplotlib",
        "requests",
        "urllib3>=2.8",
    ],
    extras_require={
        "hf": ["transformers>=5", "safetensors", "tokenizers", "protobuf"],  # protobuf reads sentencepiece's models
        "slurm": ["submitit"],
        "dev": [
            *("mwparserfromhell", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "submitit"),
            *("transformers>=5", "safetensors", "protobuf", "accelerate", "onnx", "onnxscript", "onnxruntime"),
        ],
    },
)
