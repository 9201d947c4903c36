"""The weights that training changes: fp32 master weights if computation is in bf16, their gradients, and AdamW."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onedial.core.settings import Run


class Weights:
    """Trainable weights of a module with their optimizer; policy and critic have one each.

    `parameters` are used for computation (in bf16 or fp32). `masters` are the fp32 weights that the optimizer changes:
    copies of the trainable parameters, or the parameters themselves if computation is in fp32. `exact` holds weights at
    the precision of the model's file, by name; a weight that is not in it starts from its parameter.
    """

    def __init__(self, module: nn.Module, exact: Mapping[str, Tensor], run: Run) -> None:
        self.run = run
        self.module = module
        trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        self.names = [name for name, _ in trained]
        self.parameters = [weight for _, weight in trained]
        self._rounded: list[tuple[Tensor, Tensor]] = []  # (compute weight, its master)
        self._touched: set[int] = set()
        self.masters: list[Tensor] = [
            weight if weight.dtype == torch.float32 else self._attach(weight, exact.get(name, weight))
            for name, weight in trained
        ]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=run.lr, betas=(run.beta1, run.beta2), weight_decay=run.weight_decay, fused=True
        )

    def _attach(self, weight: Tensor, exact: Tensor) -> Tensor:
        """The fp32 master of a bf16 weight; gradients are added to the master's as soon as backward computes them."""
        master = exact.detach().to(weight.device, torch.float32)
        master.grad = torch.zeros_like(master)

        def gather(weight: Tensor) -> None:
            assert master.grad is not None and weight.grad is not None
            if id(master) in self._touched:
                _add(weight.grad, master.grad)
            else:  # the first gradient of a step overwrites: no pass to set the buffer to zero
                master.grad.copy_(weight.grad)
                self._touched.add(id(master))
            weight.grad = None

        weight.register_post_accumulate_grad_hook(gather)
        self._rounded.append((weight, master))
        return master

    def step(self, lr: float) -> float:
        """One optimizer step from the accumulated gradients; returns their norm before clipping.

        If the norm is not finite, no weight and no moment changes.
        """
        for _, master in self._rounded:
            if id(master) not in self._touched and master.grad is not None:
                master.grad.zero_()
        self._touched.clear()
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.run.grad_clip or float("inf"))
        if not torch.isfinite(norm):
            return float(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for weight in self.parameters:
            weight.grad = None
        self.publish()
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Copies the master weights, rounded, to the compute weights."""
        if self._rounded:
            weights, masters = zip(*self._rounded, strict=True)
            torch._foreach_copy_(list(weights), list(masters))


def _add(part: Tensor, total: Tensor, piece: int = 1 << 18) -> None:
    """Adds to an fp32 sum piece by piece, so that torch's conversion to fp32 stays within the processor's cache."""
    for target, more in zip(total.view(-1).split(piece), part.reshape(-1).split(piece), strict=True):
        target.add_(more)
