"""Floating-point operations of one training step, counted from the model's dimensions.

B inputs of N tokens (pads included, which are computed as well), C channels, F channels inside the feed-forward
sublayer, V symbols, K projected length (of a shorter input, where E and F pool, the blocks that it fills, and where
they are adaptive, N), T width of the local convolution, W local window, M predicted tokens of all inputs. A
multiply-add counts as two operations. Forward, per input:

    queries, output projection     4 N C²
    E x and F x                    2 K N C, twice where E is not F      linear, paper equation 7
                                   2 N C, likewise                      conv; adaptive, if N > K; pooling has none
    keys and values                4 K C²                               of what E and F have compressed
                                   4 N C²                               sharing `none` (before E and F), exact attention
    … beside a local window        4 N C² more                          with sharing `none` 2 N C²: it has the values
    scores and their mixture       4 N K C                              paper section 4: O(N K); exact attention: K = N
    … with a local window          4 N (K + R + 2W) C                   R = max(64, W), N filled up to a multiple of R;
                                   4 N (K + N) C                        for inputs for which this is less
    local convolution              2 N T C, and 2 N C² for its values where they were not computed anyway
    feed forward                   4 N C F
    masked-LM head                 2 C² + 2 C V for each of the M predicted tokens

In the last layer, queries, output projection, scores and feed forward count only for tokens whose features are used:
the predicted ones, or the one that a classification head reads; beside a window, queries for all tokens, and scores
where they take blocks of R. An adaptive projection of N <= K tokens is exact attention, and has no window.

The backward pass computes two products for each one of the forward pass, and one less where E and F are frozen, and
where they are adaptive, as the gradient of their scores is added to that of their means without a product. What
`--checkpoint-activations` computes a second time is not counted ("model FLOPs", Chowdhery et al. 2022, appendix B), nor
what is linear in the activations or parameters: embeddings, layer norms, softmax, dropout, activations, the optimizer.
"""

import math

from linformer_fairseq.layers.config import EncoderConfig
from linformer_fairseq.layers.window import QUERIES

FORWARD_AND_BACKWARD = 3


def encoder_flops(cfg: EncoderConfig, batch: int, tokens: int, used: float | None = None) -> float:
    """Operations of the encoder, forward and backward, for inputs of which `used` features are used (None for all)."""
    outputs = [float(tokens)] * (cfg.num_layers - 1) + [tokens if used is None else used]
    layers = sum(_layer(cfg, cfg.lengths[min(i, len(cfg.lengths) - 1)], tokens, m) for i, m in enumerate(outputs))
    return batch * layers * (1 - cfg.layerdrop)


def head_flops(cfg: EncoderConfig, predicted: float) -> float:
    """Operations of the masked-LM head, forward and backward, for `predicted` masked tokens."""
    return FORWARD_AND_BACKWARD * predicted * 2 * cfg.embed_dim * (cfg.embed_dim + cfg.vocab_size)


def _layer(cfg: EncoderConfig, k: int, n: int, m: float) -> float:
    """Of a layer that reads n tokens and outputs m."""
    c, window = cfg.embed_dim, cfg.local_window
    usual = 2 * m * c * c + 4 * m * c * cfg.ffn_dim + 2 * n * cfg.local_conv * c  # W_o, feed forward, convolution
    if cfg.attention == "none":
        return FORWARD_AND_BACKWARD * (usual + 2 * n * c * c)
    if cfg.attention == "exact":
        return FORWARD_AND_BACKWARD * (usual + 2 * m * c * c + 4 * n * c * c + 4 * m * n * c)
    projection = {"linear": 2 * k * n * c, "conv": 2 * n * c, "adaptive": 2 * n * c}.get(cfg.projection, 0)
    projection *= 1 + cfg.separate_e_and_f
    if cfg.attention == "local":
        k = projection = 0
    elif cfg.projection == "adaptive" and n <= k:
        k, window, projection = n, 0, 0
    elif cfg.projection not in ("linear", "adaptive"):
        k = math.ceil(n / (cfg.max_positions // k))
    usual += 2 * (n if window else m) * c * c + _scores(k, window, n, m) * c  # W_q
    if cfg.one_per_head:
        usual += (6 if window else 4) * n * c * c
    else:
        usual += 4 * k * c * c + (4 if window else 2 if cfg.local_conv else 0) * n * c * c
    frozen = cfg.freeze_projection and cfg.learns_projection
    return FORWARD_AND_BACKWARD * usual + (FORWARD_AND_BACKWARD - frozen - (cfg.projection == "adaptive")) * projection


def _scores(k: int, window: int, n: int, m: float) -> float:
    """Scores and their mixture for each channel, as `layers/window.py` computes them where there is a window."""
    if not window:
        return 4 * m * k
    rows = max(QUERIES, window)
    near = k + rows + 2 * window
    return 4 * m * (k + n) if m * (n + k) <= n * near else 4 * math.ceil(n / rows) * rows * near
