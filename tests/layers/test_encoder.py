"""The encoder as a whole: parameters and their names, gradients, lengths, checkpointing, layer drop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.encoder import touch

LAYERS, HEADS = 3, 4


def config(**kwargs: object) -> EncoderConfig:
    sizes = {"vocab_size": 60, "max_positions": 64, "embed_dim": 16, "ffn_dim": 32, "num_heads": HEADS}
    return EncoderConfig(**{**sizes, "num_layers": LAYERS, "projected_length": 16, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ("linear", "conv"))
@pytest.mark.parametrize(
    "sharing, expected",
    [("none", 2 * HEADS * LAYERS), ("headwise", 2 * LAYERS), ("key-value", LAYERS), ("layerwise", 1)],
)
def test_number_of_distinct_matrices(sharing: str, expected: int, kind: str) -> None:
    state = LinformerEncoder(config(sharing=sharing, projection=kind)).state_dict()
    weights = [v for k, v in state.items() if k.endswith(("E.weight", "F.weight"))]
    assert len({w.data_ptr() for w in weights}) == len(weights)
    assert sum(w.size(0) if w.dim() == 3 else 1 for w in weights) == expected


def test_pooling_has_no_parameters_and_takes_any_length_per_layer() -> None:
    cfg = config(projection="mean-pool", projected_length=(32, 16, 8))
    assert not [k for k in LinformerEncoder(cfg).state_dict() if ".E." in k]
    assert LinformerEncoder(cfg)(torch.randint(2, 60, (2, 33)))[0].shape == (2, 33, 16)


def test_non_uniform_k_gives_each_layer_its_length() -> None:
    cfg = config(sharing="key-value", projected_length=(32, 16, 8))
    state = LinformerEncoder(cfg).state_dict()
    assert [state[f"layers.{i}.self_attn.E.weight"].shape for i in range(3)] == [(32, 64), (16, 64), (8, 64)]


def test_names_are_robertas_plus_the_projection() -> None:
    names = set(LinformerEncoder(config(sharing="headwise")).layers[0].state_dict())
    linear = {
        f"{m}.{p}" for m in ("fc1", "fc2", "self_attn_layer_norm", "final_layer_norm") for p in ("weight", "bias")
    }
    attention = {f"self_attn.{x}_proj.{p}" for x in ("q", "k", "v", "out") for p in ("weight", "bias")}
    projections = {f"self_attn.{m}.{p}" for m in "EF" for p in ("weight", "lr_scale")}
    assert names == linear | attention | projections


@pytest.mark.parametrize("attention", ("linformer", "exact", "none"))
@pytest.mark.parametrize("sharing", ("none", "headwise", "key-value", "layerwise"))
@pytest.mark.parametrize("local_conv", (0, 3))
def test_every_parameter_gets_a_gradient(attention: str, sharing: str, local_conv: int) -> None:
    model = LinformerEncoder(config(attention=attention, sharing=sharing, local_conv=local_conv))
    model(torch.randint(2, 60, (2, 64)))[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_too_long_an_input_is_refused_by_flag_name() -> None:
    with pytest.raises(ValueError, match="65 tokens.*--max-positions 64"):
        LinformerEncoder(config())(torch.randint(2, 60, (1, 65)))


def test_a_shorter_input_works_down_to_one_token() -> None:
    model = LinformerEncoder(config()).eval()
    for tokens in (1, 2, 15, 17, 63, 64):
        assert model(torch.randint(2, 60, (2, tokens)))[0].isfinite().all()


def test_hidden_states_are_the_input_and_each_layers_output() -> None:
    model = LinformerEncoder(config()).eval()
    features, hiddens = model(torch.randint(2, 60, (2, 20)), return_all_hiddens=True)
    assert len(hiddens) == LAYERS + 1
    assert torch.equal(hiddens[-1], features)


def gradients(**kwargs: object) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    model = LinformerEncoder(config(**kwargs))
    torch.manual_seed(1)
    loss = model(torch.randint(2, 60, (2, 50)))[0].square().sum()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("sharing", ("headwise", "layerwise"))
def test_checkpointed_activations_change_no_gradient(sharing: str) -> None:
    plain, checkpointed = gradients(sharing=sharing), gradients(sharing=sharing, checkpoint_activations=True)
    assert torch.equal(plain[0], checkpointed[0])
    for a, b in zip(plain[1], checkpointed[1], strict=True):
        torch.testing.assert_close(a, b)


def test_layerdrop_leaves_layers_out_in_training_and_no_parameter_without_gradient() -> None:
    torch.manual_seed(0)
    model = LinformerEncoder(config(layerdrop=0.7))
    tokens = torch.randint(2, 60, (2, 20))
    idle = 0
    for _ in range(10):
        model.zero_grad()
        model(tokens)[0].square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        idle += sum(layer.fc1.weight.grad.abs().sum().item() == 0 for layer in model.layers)
    assert 10 < idle < 30
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_touch_changes_no_value() -> None:
    x, p = torch.randn(3, 4), torch.nn.Parameter(torch.full((2, 2), 1e30))
    out = touch(x, [p])
    assert torch.equal(out, x)
    out.sum().backward()
    assert p.grad is not None and p.grad.abs().sum() == 0


def test_pre_ln_ends_in_a_layer_norm() -> None:
    model = LinformerEncoder(config(normalize_before=True)).eval()
    features = model(torch.randint(2, 60, (2, 20)))[0]
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 20), atol=1e-5, rtol=0)
    assert {"layer_norm.weight", "layer_norm.bias"} <= set(model.state_dict())


def test_a_pixels_position_is_its_rows_and_its_columns() -> None:
    model = LinformerEncoder(config(position_grid=4)).eval()
    table, pad = model.embed_positions, model.cfg.pad_index
    found = table(torch.arange(64 + pad + 1))
    pixels = found[pad + 2 : pad + 2 + 16].view(4, 4, -1)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        assert torch.equal(pixels[row, column], table.rows.weight[row] + table.columns.weight[column])
    others = torch.cat([found[: pad + 2], found[pad + 2 + 16 :]])
    assert torch.equal(others, table.others.weight) and not found[pad].any()
    assert len(others) == 64 + pad + 1 - 16


def test_positions_of_a_grid_see_no_pads_and_learn() -> None:
    model = LinformerEncoder(config(position_grid=4)).eval()
    tokens = torch.randint(2, 60, (2, 18))
    padded = torch.nn.functional.pad(tokens, (0, 20), value=model.cfg.pad_index)
    torch.testing.assert_close(model(padded)[0][:, :18], model(tokens)[0], rtol=0, atol=1e-5)
    model(padded)[0][:, :18].square().sum().backward()
    gradient = model.embed_positions.others.weight.grad
    assert not gradient[model.cfg.pad_index].any() and gradient[model.cfg.pad_index + 1].any()
    assert model.embed_positions.rows.weight.grad.abs().sum(1).gt(0).all()


def test_a_grid_must_fit_into_the_positions() -> None:
    assert config(position_grid=7).position_grid == 7  # 49 pixels, <s> and </s> of 64
    with pytest.raises(ValueError, match="--position-grid 8 needs 66 positions.*not --max-positions 64"):
        config(position_grid=8)
