"""Attention of noisy vectors that see the clean tokens up to their place and themselves, without a mask.

The softmax over clean tokens and the own token is a mean of two parts, weighted by their sums of exponentials: with
`lse_i` the log of the sum over clean tokens, `s_i = q_i . k_i / sqrt(D / H)` the own score and
`own_i = exp(s_i) / (exp(lse_i) + exp(s_i))`,

    out_i = (1 - own_i) clean_i + own_i v_i
    LSE_i = log(exp(lse_i) + exp(s_i)).

The first part is causal attention, for which there are fast kernels that hold no scores. Merging parts by their sums is
what FlashAttention does from tile to tile (arXiv 2205.14135, Sec. 3.1) and Ring Attention from device to device (arXiv
2310.01889). The kernels' backward pass makes the weights of clean tokens, `exp(s_ij - LSE_i)`, and their gradients,
`weight_ij (g_i . v_j - g_i . out_i)`, from the output and LSE that it is given: with those of the merged attention its
gradients are exact. The own token's are the same formulas for one key.

Axes: N batch, H heads, T noisy vectors, S clean tokens, D token width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dbl.networks.kv_cache import KeysValues

_LOW = (torch.bfloat16, torch.float16)


def own_token_attention(query: Tensor, clean: KeysValues, own: KeysValues) -> Tensor:
    """Attend to the clean tokens up to the own place, and to the own token.

    Args:
        query: [N, H, T, D / H], for the tokens after the last T clean ones; T <= S.
        clean: keys and values of S clean tokens.
        own: keys and values of the T noisy vectors.

    Returns:
        [N, H, T, D / H]; number i has seen clean tokens up to S - T + i, and noisy vector i.
    """
    if clean.keys.shape == query.shape and _has_kernel(query):
        return _OwnTokenAttention.apply(query, *clean, *own)
    keys, values = clean.append(*own)
    length = query.shape[2]
    mask = up_to_and_itself(clean.keys.shape[2] - length, length, query.device)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def up_to_and_itself(start: int, length: int, device: torch.device) -> Tensor:
    """Mask [length, start + 2 length]: noisy vector start + i sees clean tokens up to start + i, and itself."""
    clean = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    return torch.cat([clean, torch.eye(length, dtype=torch.bool, device=device)], dim=1)


def _has_kernel(query: Tensor) -> bool:
    """Whether there is a causal kernel that returns the log of the sum."""
    if query.device.type != "cuda":
        return query.device.type == "cpu"
    return query.dtype in _LOW and query.shape[3] % 8 == 0 and query.shape[3] <= 256 and _has_flash(query.device)


@torch.compiler.assume_constant_result
def _has_flash(device: torch.device) -> bool:
    """Whether a CUDA device runs the flash kernel; false without one, when a training is planned for it."""
    if torch.version.hip is not None or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_properties(device).major >= 8


class _OwnTokenAttention(torch.autograd.Function):
    """The attention for S = T, on kernels of torch's, since its public functions return no log of the sum.

    Scores and sums have the precision of that log, float32, or float64 for inputs in float64; weights and gradients of
    scores are rounded to that of the inputs before they multiply them, as in the kernels.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor) -> Tensor:
        clean, lse, *rest = _causal(query, keys, values)  # N, H, T, D/H and N, H, T
        score = (query.to(lse.dtype) * own_keys).sum(dim=3) * query.shape[3] ** -0.5  # N, H, T
        own = torch.sigmoid(score - lse).unsqueeze(3)  # N, H, T, 1
        out = torch.lerp(clean, own_values, own.type_as(clean))
        merged = torch.logaddexp(lse, score).contiguous()  # the kernel for CUDA reads it as if it were
        ctx.save_for_backward(query, keys, values, own_keys, own_values, own, out, merged, *rest)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, keys, values, own_keys, own_values, own, out, merged, *rest = ctx.saved_tensors
        of_query, of_keys, of_values = _causal_backward(grad, query, keys, values, out, merged, *rest)
        gain = (grad.to(merged.dtype) * (own_values - out)).sum(dim=3, keepdim=True)
        of_score = (own * gain * query.shape[3] ** -0.5).type_as(query)  # N, H, T, 1
        of_query = of_query.addcmul_(of_score, own_keys)
        return of_query, of_keys, of_values, of_score * query, own.type_as(grad) * grad


def _causal(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """Causal attention, the log of its sums of exponentials, and what the backward pass needs besides."""
    aten = torch.ops.aten
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values, 0.0, True)
    out, lse, _, _, _, _, seed, offset, _ = aten._scaled_dot_product_flash_attention(query, keys, values, 0.0, True)
    return out, lse, seed, offset


def _causal_backward(
    grad: Tensor, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor, *rest: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of query, keys and values, with the weights that `lse` gives."""
    aten, inputs = torch.ops.aten, (grad, query, keys, values, out, lse)
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(*inputs, 0.0, True)
    # None: all texts have the same length.
    lengths = None, None, query.shape[2], keys.shape[2]
    return aten._scaled_dot_product_flash_attention_backward(*inputs, *lengths, 0.0, True, *rest)
