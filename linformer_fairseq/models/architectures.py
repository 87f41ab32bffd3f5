"""Named architectures: what `--arch NAME` fills in where no flag was given, and what fairseq's old flags mean."""

import logging
from argparse import Namespace
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from linformer_fairseq.layers.config import EncoderConfig, option_names
from linformer_fairseq.models.config import LinformerRobertaConfig

logger = logging.getLogger(__name__)

MODEL = "linformer_roberta"

# The defaults in `layers/config.py` are the sizes of roberta-base.
BASE: dict[str, Any] = {
    option_names("fairseq")[row.name]: row.default
    for row in fields(EncoderConfig)
    if row.metadata["by_arch"] and row.name not in ("max_positions", "projected_length")
}
LARGE = BASE | dict(encoder_layers=24, encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16)
# Learns from a few million tokens on two CPU cores, for which it needs pre-LN and the local convolution.
TINY = BASE | dict(encoder_layers=2, encoder_embed_dim=128, encoder_ffn_embed_dim=512, encoder_attention_heads=4)
TINY |= dict(encoder_normalize_before=True, max_positions=512, projected_length="128", local_conv=9)
ARCHITECTURES = {MODEL: BASE, f"{MODEL}_base": BASE, f"{MODEL}_large": LARGE, f"{MODEL}_tiny": TINY}
# The lengths of the paper (n = 512 and 1024 in table 2, up to 4096 in figure 3) and the next ones.
for n, k in ((512, 128), (512, 256), (1024, 256), (2048, 256), (4096, 256), (8192, 256)):
    ARCHITECTURES[f"{MODEL}_base_n{n}_k{k}"] = BASE | {"max_positions": n, "projected_length": str(k)}

# Flags of fairseq's examples/linformer. As soon as one of them is used, the defaults of the others apply.
OLD_FLAGS = ("compressed", "shared_kv_compressed", "shared_layer_kv_compressed", "freeze_compress")


def fill_architecture(cfg: Namespace | DictConfig, name: str) -> None:
    """Set what neither a flag nor a configuration file has set to the values of architecture `name`."""
    for key, value in ARCHITECTURES[name].items():
        if getattr(cfg, key, None) is None:
            setattr(cfg, key, value)


def complete(cfg: Namespace | DictConfig, task_positions: int) -> None:
    """Fill in every missing setting of the model, in place, so that the saved configuration is complete.

    A ValueError refuses samples (up to `task_positions` tokens) longer than the model reads.
    """
    name = getattr(cfg, "_name", None) or MODEL
    fill_architecture(cfg, name)
    for setting in fields(LinformerRobertaConfig):  # fairseq-hydra-train passes on only what the file has
        if setting.name not in cfg:
            setattr(cfg, setting.name, setting.default)
    if cfg.max_positions is None:
        cfg.max_positions = task_positions
    if task_positions > (n := cfg.max_positions):
        found = f"the task's samples have up to {task_positions} tokens (--tokens-per-sample)"
        raise ValueError(f"{found}, more than the model's --max-positions {n} ({name}); set one to the other")
    translate_old_flags(cfg)
    if cfg.projected_length is None:
        cfg.projected_length = str(min(256, max(1, cfg.max_positions // 4)))


def translate_old_flags(cfg: Namespace | DictConfig) -> None:
    """Turn the flags of fairseq's examples/linformer into ours, with a warning that names the new flags."""
    old = {key: value for key in OLD_FLAGS if (value := getattr(cfg, key, None)) is not None}
    if not old:
        return
    ratio = old.get("compressed", 4)
    if not 1 <= ratio <= cfg.max_positions:
        raise ValueError(f"--compressed {ratio} does not lie between 1 and --max-positions {cfg.max_positions}")
    if cfg.projected_length is None:
        cfg.projected_length = str(cfg.max_positions // ratio)
    elif "compressed" in old:
        both = "--compressed and --projected-length (given, or of the --arch)"
        raise ValueError(f"{both} both set k; keep --projected-length")
    cfg.projection_sharing = "key-value" if old.get("shared_kv_compressed") else "headwise"
    if old.get("shared_layer_kv_compressed"):
        cfg.projection_sharing = "layerwise"
    cfg.freeze_projection = bool(old.get("freeze_compress")) or cfg.freeze_projection
    for key in OLD_FLAGS:
        setattr(cfg, key, None)
    given = ", ".join("--" + key.replace("_", "-") for key in old)
    same = f"--projected-length {cfg.projected_length} --projection-sharing {cfg.projection_sharing}"
    frozen = " --freeze-projection" if cfg.freeze_projection else ""
    logger.warning(
        f"the flags of fairseq's examples/linformer ({given}) are deprecated; the same model is {same}{frozen}"
    )
