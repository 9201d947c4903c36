"""A linear layer for decoding, where every batch holds one token of each sequence.

The CPU's matrix product rearranges the weights into blocks on every call; for a few dozen tokens this costs as much as
a quarter of the product. `pack` does it once. The results are bitwise the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZE = 64  # the batch size that the blocks are optimized for; others work too


class Product:
    """x ↦ x weightᵀ + bias. Between `pack` and `unpack` it computes with a copy of the weights in blocks."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._packed: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """(n, inputs) → (n, outputs)."""
        if self._packed is None:
            return F.linear(inputs, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], "")
        return out

    def pack(self) -> None:
        """Copies the present weights into blocks; call it again, or `unpack`, after the weights have changed."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, BATCH_SIZE)

    def unpack(self) -> None:
        """Frees the copy."""
        self._packed = None


def can_pack(weight: Tensor) -> bool:
    """Whether blocks are faster: bfloat16 on a CPU that multiplies it, if torch has the operators for it."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
