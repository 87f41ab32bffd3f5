"""A RoBERTa as this project's model with exact attention: equal logits, and E and F are missing (see warm_start.py)."""

from argparse import Namespace
from pathlib import Path

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY

from linformer_fairseq.checkpoints.checkpoint import MAX_SPECIAL, Checkpoint, completed, read
from linformer_fairseq.checkpoints.names import EMBEDDING, ENCODER, OUTPUT, POSITIONS, modern_names
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import ACTIVATIONS
from linformer_fairseq.models.architectures import ARCHITECTURES, MODEL

# Settings that mean the same here.
_KEPT = (
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "pooler_dropout"),
    *("encoder_attention_heads", "encoder_normalize_before"),
    *("pooler_activation_fn", "spectral_norm_classification_head"),
)
# What our encoder computes and some of fairseq's architectures do not.
_OTHER = {
    "layernorm_embedding": (True, "no layer norm over its embeddings"),
    "no_scale_embedding": (True, "scaled embeddings"),
    "encoder_learned_pos": (True, "sinusoidal positions"),
    "no_token_positional_embeddings": (False, "no positions"),
}


def from_roberta(path: Path) -> Checkpoint:
    """Read a folder of Hugging Face, or a file of fairseq, of any size and year, or ours with `--attention exact`."""
    if path.is_dir():
        from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder  # of the extra `hf`

        return from_hf_encoder(path)
    source = read(path)
    name = str(source.model.get("_name"))
    if name in ARCHITECTURES:
        if source.model.get("attention") != "exact":
            raise UsageError(f"{path}: is already a checkpoint of this project's; use extend to change n or k")
        return source
    if ARCH_MODEL_NAME_REGISTRY.get(name) != "roberta":
        raise UsageError(f"{path}: a checkpoint of --arch {name} is not one of fairseq's roberta")
    state = {key: value for key, value in modern_names(source.state).items() if not key.endswith(".version")}
    for key in (EMBEDDING, POSITIONS, OUTPUT):
        if key not in state:
            raise UsageError(f"{path}: has no {key}, so it is not a whole RoBERTa with learned positions")
    # Sizes are those of the parameters, other settings as given or from the architecture.
    complete = Namespace(**{key: value for key, value in source.model.items() if value is not None})
    ARCH_CONFIG_REGISTRY[name](complete)
    for key, (needed, what) in _OTHER.items():
        if bool(getattr(complete, key)) is not needed:
            raise UsageError(f"{path}: this RoBERTa has {what}, which no Linformer of this project has")
    if complete.activation_fn not in ACTIVATIONS:
        known = " and ".join(ACTIVATIONS)
        raise UsageError(f"{path}: its activation is {complete.activation_fn}; only {known} can be converted")
    layers = [value for key, value in state.items() if key.startswith(f"{ENCODER}layers.") and ".fc1.weight" in key]
    if not layers:
        raise UsageError(f"{path}: has no layers, so it is not a whole RoBERTa")
    model = {key: getattr(complete, key) for key in _KEPT if hasattr(complete, key)} | {
        "_name": MODEL,
        "attention": "exact",
        "local_conv": 0,
        "activation_fn": str(complete.activation_fn),
        "max_positions": state[POSITIONS].size(0) - MAX_SPECIAL,
        "encoder_layers": len(layers),
        "encoder_embed_dim": layers[0].size(1),
        "encoder_ffn_embed_dim": layers[0].size(0),
        "untie_weights_roberta": not state[EMBEDDING].equal(state[OUTPUT]),
    }
    return completed(source.converted({"conversion": "from-roberta", "form": "fairseq"}, state=state, model=model))
