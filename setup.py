"""Installation of linformer_fairseq and data_prep; `make` does it in `.venv` with the tested versions."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "linformer_fairseq/version.py").read_text(), re.MULTILINE)
DOCS = ["mkdocs-material", "mkdocstrings[python]", "rich"]
ROOMS = ["linformer_fairseq", "linformer_fairseq.*", "data_prep", "data_prep.*"]


class BuildWithRecipes(build_py):
    """Puts the YAML recipes and the sbatch scripts into the wheel's package, where paths.py finds them."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for file in (*ROOT.glob("recipes/pretrain/*"), *ROOT.glob("recipes/finetune/*"), *ROOT.glob("slurm/*.sh")):
                target = Path(self.build_lib, "linformer_fairseq", file.relative_to(ROOT))
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(
    name="linformer-fairseq",
    version=VERSION[1],
    description="Linformer text encoders with fairseq: raw text to pretrained and fine-tuned models",
    author="linformer_fairseq contributors",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=[*find_namespace_packages(include=ROOMS, exclude=["*.hydra_plugins", "*.configs"]), "hydra_plugins"],
    # hydra looks for plugins in this namespace package
    package_dir={"hydra_plugins": "linformer_fairseq/hydra_plugins"},
    package_data={"linformer_fairseq": ["py.typed", "checkpoints/*.md"], "data_prep": ["py.typed", "configs/*.yaml"]},
    cmdclass={"build_py": BuildWithRecipes},
    entry_points={"console_scripts": ["linformer = linformer_fairseq.cli:main"]},
    install_requires=[
        "torch>=2.13",
        "ve-fairseq==0.12.3",  # provides the module fairseq; it has wheels for Python 3.11 and 3.12
        *("numpy>=2", "sentencepiece", "pyarrow", "pyyaml", "omegaconf", "ftfy", "datasketch", "scipy"),
        *("scikit-learn", "tokenizers", "tqdm", "matplotlib", "requests", "urllib3>=2.8"),
    ],
    extras_require={
        "hf": ["transformers>=5", "safetensors", "tokenizers", "protobuf"],  # protobuf reads sentencepiece's models
        "slurm": ["submitit"],
        "docs": DOCS,
        "dev": [
            *("mwparserfromhell", "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "submitit"),
            *("transformers>=5", "safetensors", "protobuf", "accelerate", "onnx", "onnxscript", "onnxruntime"),
            *(*DOCS, "selenium"),
        ],
    },
)
