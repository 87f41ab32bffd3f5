"""fairseq's settings are those of the table of options."""

from __future__ import annotations

from dataclasses import fields

from linformer_fairseq.layers.config import EncoderConfig, option_names
from linformer_fairseq.models.architectures import BASE
from linformer_fairseq.models.config import LinformerRobertaConfig


def test_every_option_is_a_setting_with_its_default_and_help() -> None:
    settings = {setting.name: setting for setting in fields(LinformerRobertaConfig)}
    names = option_names("fairseq")
    for row in fields(EncoderConfig):
        if name := names.get(row.name):
            assert settings[name].metadata["help"] == row.metadata["help"] != ""
            assert settings[name].default == (None if row.metadata["by_arch"] else row.default)
            if row.metadata["by_arch"] and name not in ("max_positions", "projected_length"):
                assert BASE[name] == row.default


def test_names_are_unique_in_each_system() -> None:
    for system in ("fairseq", "hf"):
        names = option_names(system)
        assert len(set(names.values())) == len(names) >= 20
