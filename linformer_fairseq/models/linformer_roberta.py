"""The fairseq model `linformer_roberta`: our encoder with RoBERTa's heads, hub interface and checkpoint names.

Shapes: B batch, N tokens, T masked tokens of the batch, M at most of one sample, C channels, V vocabulary.
"""

import os
import shutil
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import FairseqEncoder, register_model, register_model_architecture
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import RobertaClassificationHead, RobertaLMHead
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, open_dict
from torch import Tensor

from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import LinformerEncoder
from linformer_fairseq.layers.encoder import mark_hidden, touch
from linformer_fairseq.models.architectures import ARCHITECTURES, MODEL, complete, fill_architecture
from linformer_fairseq.models.config import LinformerRobertaConfig, encoder_config

TILE = 64  # tensor cores take dimensions that are multiples of this at full speed


class MaskedTokens(NamedTuple):
    """The indices of the T masked tokens of a batch, in the order of the batch."""

    positions: Tensor  # (B, M), within each sample; a sample with fewer than M ends in arbitrary other positions
    slots: Tensor  # (T,), into the flattened B x M
    flat: Tensor  # (T,), into the flattened B x N

    @classmethod
    def of(cls, mask: Tensor, on_host: list[int] | None = None) -> "MaskedTokens":
        """From (B, N), True for a masked token. Without their number in each sample, this waits for a GPU once."""
        counts = mask.sum(1)
        on_host = counts.tolist() if on_host is None else on_host
        most, total = max(1, *on_host), sum(on_host)
        filled = torch.arange(most, device=mask.device) < counts.unsqueeze(1)
        slots, flat = (_true_first(x.flatten())[:total] for x in (filled, mask))
        return cls(_true_first(mask)[:, :most], slots, flat)


def count_on_host(sample: dict[str, Any], pad: int) -> None:
    """Note in a batch that is still in main memory what a step would wait for a GPU to know."""
    net_input, target = sample.get("net_input", {}), sample.get("target")
    if (tokens := net_input.get("src_tokens")) is not None:  # else it is a batch of pairs of texts
        net_input["padded"] = bool(tokens.eq(pad).any())
        if target is not None and target.shape == tokens.shape:
            sample["masked_on_host"] = target.ne(pad).sum(1).tolist()


def _true_first(mask: Tensor) -> Tensor:
    """Indices along the last dimension: those of True, then those of False, each in order."""
    return torch.argsort(mask.to(torch.uint8), dim=-1, descending=True, stable=True)


class LinformerRobertaEncoder(FairseqEncoder):
    """Linformer encoder and masked-LM head. `cfg` has been completed by `complete`."""

    def __init__(self, cfg: Namespace | DictConfig, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self.cfg = encoder_config(cfg, len(dictionary), dictionary.pad())
        self.sentence_encoder = LinformerEncoder(self.cfg)
        self.lm_head = MaskedLmHead(
            self.cfg.embed_dim,
            len(dictionary),
            self.cfg.activation,
            weight=None if cfg.untie_weights_roberta else self.sentence_encoder.embed_tokens.weight,
        )
        self.lm_head.layer_norm.eps = self.cfg.layer_norm_eps
        mark_hidden(self.lm_head.dense)

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        masked_tokens: Tensor | MaskedTokens | None = None,
        head_features_only: bool = False,
        needed: Tensor | None = None,
        padded: bool | None = None,
        **unused: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits (B, N, V) or (T, V), or features, of (B, N) ids; and a dict: `inner_states`, `output_projection`.

        Args:
            features_only: return features (B, N, C) without the masked-LM head.
            return_all_hiddens: also return hidden states, as fairseq has them: (N, B, C).
            masked_tokens: (B, N), True where the head predicts, or their indices; the result is for these T tokens
                only, and the last layer computes no others.
            head_features_only: stop before the head's output projection: return its input (…, C), and its weight (V, C)
                and bias (V,) as `output_projection`, for a criterion that holds no logits.
            needed, padded: as in `LinformerEncoder.forward`.
        """
        select = None
        if masked_tokens is not None and not features_only:
            masked = MaskedTokens.of(masked_tokens) if isinstance(masked_tokens, Tensor) else masked_tokens
            needed, select = (None, masked.flat) if return_all_hiddens else (masked.positions, masked.slots)
        x, hiddens = self.sentence_encoder(src_tokens, return_all_hiddens, needed=needed, padded=padded)
        if select is not None:
            x = x.flatten(0, 1).index_select(0, select)
        extra: dict[str, Any] = {"inner_states": [h.transpose(0, 1) for h in hiddens] if return_all_hiddens else None}
        if head_features_only:
            # Views, because DistributedDataParallel's search for unused parameters does not see returned parameters.
            extra["output_projection"] = tuple(p.view_as(p) for p in (self.lm_head.weight, self.lm_head.bias))
            x = head_features(self.lm_head, x)
        elif not features_only:
            x = self.lm_head(x)
        return x, extra

    def max_positions(self) -> int:
        return self.cfg.max_positions


class MaskedLmHead(RobertaLMHead):
    """fairseq's head, computed for a number of symbols that suits tensor cores."""

    def forward(self, features: Tensor, masked_tokens: Tensor | None = None, **unused: Any) -> Tensor:
        """As fairseq's: (…, C) -> logits (…, V), or (T, V) of masked tokens."""
        if not suits_tensor_cores(features):
            logits: Tensor = super().forward(features, masked_tokens)
            return logits
        if masked_tokens is not None:
            features = features[masked_tokens]
        projection = pad_symbols(self.weight, self.bias)
        return functional.linear(head_features(self, features), *projection)[..., : len(self.bias)]


def suits_tensor_cores(x: Tensor) -> bool:
    """Whether products with x run, or are to be tested as if they ran, on tensor cores."""
    return x.is_cuda or x.dtype == torch.float16


def pad_symbols(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (V', C) and bias (V',) with V rounded up to a multiple of 64 by symbols of probability zero."""
    missing = -len(bias) % TILE
    return functional.pad(weight, (0, 0, 0, missing)), functional.pad(bias, (0, missing), value=-torch.inf)


def head_features(head: RobertaLMHead, features: Tensor) -> Tensor:
    """What the output projection of a masked-LM head is applied to; (…, C) -> (…, C)."""
    x: Tensor = head.layer_norm(head.activation_fn(head.dense(features)))
    return x


def require_compiler() -> None:
    """UsageError without a C++ compiler, where torch.compile would end the first update with a traceback."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UsageError(
            f"--compile needs a C++ compiler and there is no {compiler} on PATH: install one (Debian: apt-get install "
            "g++), name it in CXX, or leave --compile out"
        )


@register_model(MODEL, dataclass=LinformerRobertaConfig)
class LinformerRobertaModel(RobertaModel):
    """RoBERTa whose encoder is a Linformer (Wang et al. 2020)."""

    _compiled = False

    @classmethod
    def hub_models(cls) -> dict[str, str]:
        return {}

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        # Without defaults: an architecture must be able to tell a flag that was given from one that was not.
        gen_parser_from_dataclass(parser, LinformerRobertaConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg: Namespace | DictConfig, task: FairseqTask) -> "LinformerRobertaModel":
        """The model for a task, after completing `cfg` in place; a UsageError names flags that do not fit."""
        with open_dict(cfg) if isinstance(cfg, DictConfig) else nullcontext():
            try:
                complete(cfg, task.max_positions())
                return cls(cfg, LinformerRobertaEncoder(cfg, task.source_dictionary))
            except ValueError as error:
                raise UsageError(str(error)) from error

    def forward(
        self,
        src_tokens: Tensor,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        classification_head_name: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As `LinformerRobertaEncoder.forward`, or the scores of a classification head."""
        if classification_head_name is not None and not return_all_hiddens:
            kwargs["needed"] = src_tokens.new_zeros(len(src_tokens), 1)  # a head reads <s>, the first token
        x, extra = super().forward(src_tokens, features_only, return_all_hiddens, classification_head_name, **kwargs)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            idle = [head for name, head in self.classification_heads.items() if name != classification_head_name]
            if features_only or classification_head_name is not None:
                idle.append(self.encoder.lm_head)
            x = touch(x, [parameter for head in idle for parameter in head.parameters()])
        return x, extra

    def train(self, mode: bool = True) -> "LinformerRobertaModel":
        """As nn.Module's. With `--compile`, the first call for training compiles the layers; inference does not."""
        if mode and self.args.compile and not self._compiled:
            require_compiler()
            self.encoder.sentence_encoder.compile_layers()
            self._compiled = True
        super().train(mode)
        return self

    def register_classification_head(
        self, name: str, num_classes: int | None = None, inner_dim: int | None = None, **unused: Any
    ) -> None:
        """Adds a classification head, in place of one of the same name."""
        self.classification_heads[name] = RobertaClassificationHead(
            input_dim=self.args.encoder_embed_dim,
            inner_dim=inner_dim or self.args.encoder_embed_dim,
            num_classes=num_classes,
            activation_fn=str(self.args.pooler_activation_fn),
            pooler_dropout=self.args.pooler_dropout,
            do_spectral_norm=self.args.spectral_norm_classification_head,
        )

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Accepts a RoBERTa's `version` markers, which say nothing about a Linformer."""
        super().upgrade_state_dict_named(state_dict, name)
        for key in [k for k in state_dict if k.rsplit(".", 1)[-1] == "version"]:
            del state_dict[key]


for name in ARCHITECTURES:
    if name != MODEL:  # which fairseq knows
        register_model_architecture(MODEL, name)(partial(fill_architecture, name=name))
