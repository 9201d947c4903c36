"""Gradients of single groups, and their sketch: a short vector that preserves inner products.

A sketch multiplies every entry of the gradient by a random sign and adds up the entries whose numbers have the same
remainder (a count sketch, Charikar, Chen and Farach-Colton 2002, with remainders instead of a hash). E⟨Sx, Sy⟩ = ⟨x,
y⟩.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import policy_loss
from onedial.training.lm.attention import use_layout
from onedial.training.trainer.packing import make_micro_batches
from onedial.training.trainer.policy import Policy

SKETCH_SIZE = 4093  # a prime: no row length of a weight is a multiple of it
LAYER_STRIDE = 4


def choose_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The trainable matrices of every fourth block, including the last one; all parameters if the model has no
    blocks."""
    trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    blocks = {
        name: int(found[1]) for name, _ in trained if (found := re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name))
    }
    last = max(blocks.values(), default=0)
    chosen = [
        weight
        for name, weight in trained
        if name in blocks and (last - blocks[name]) % LAYER_STRIDE == 0 and weight.dim() > 1
    ]
    return chosen or [weight for _, weight in trained]


class GradientSketch:
    """A linear map from gradients of `parameters` to `size` numbers; the same for the same seed."""

    def __init__(self, parameters: Sequence[Tensor], *, size: int = SKETCH_SIZE, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self._signs: list[Tensor] = []
        generator = torch.Generator().manual_seed(seed)
        for weight in parameters:
            bits = torch.randint(0, 2, (weight.numel(),), generator=generator, dtype=torch.int8)
            self._signs.append((2 * bits - 1).to(weight.device))

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """Returns the (size,) sketch of one gradient per parameter, fp32 on the CPU."""
        total = torch.zeros(self.size)
        for values, signs in zip(gradients, self._signs, strict=True):
            signed = values.reshape(-1).float() * signs
            whole = signed.numel() // self.size * self.size
            total += signed[:whole].view(-1, self.size).sum(0).cpu()
            total[: signed.numel() - whole] += signed[whole:].cpu()
        return total


def group_batches(batch: Batch) -> list[Batch]:
    """Returns one batch per group, in the order of the groups."""
    return [batch.select((batch.group == number).nonzero().squeeze(1)) for number in range(len(batch.group_ids))]


def take_gradient(
    policy: Policy,
    row: Algorithm,
    batch: Batch,
    parameters: Sequence[Tensor],
    reduce: Callable[[Sequence[Tensor]], Tensor],
) -> Tensor:
    """Returns `reduce` of the gradient that increases the row's objective on a batch, treated as a whole step.

    `batch` has advantages, and "old_logp" if the policy has changed since. `reduce` must be linear (a sketch), because
    the batch is computed in micro-batches. Gradients accumulated by training are not changed.
    """
    counts = Counts.of(batch)
    total: Tensor | None = None
    for piece in make_micro_batches(batch, policy.run.micro_batch_tokens, whole_groups=row.needs_whole_groups):
        piece = piece.to(policy.device)
        logp, layout = policy.logps(piece)
        loss = policy_loss(row, piece.annotate(logp=logp), counts).loss
        with use_layout(layout):
            part = reduce([-values for values in torch.autograd.grad(loss, list(parameters))])
        total = part if total is None else total + part
    assert total is not None
    return total


def flatten(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the whole gradient as one vector, fp32."""
    return torch.cat([values.reshape(-1).float() for values in gradients])
