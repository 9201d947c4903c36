"""Gradients of bfloat16 weights are added up in float32. Oracle: torch's AdamW on float32 copies with the same sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onedial.core.settings import Run
from onedial.training.trainer.master_weights import Weights

SHAPE = (600, 500)  # more numbers than are added at a time


class Two(nn.Module):
    """Two weights of which a step may reach only one."""

    def __init__(self, exact: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Parameter(exact["first"].bfloat16())
        self.second = nn.Parameter(exact["second"].bfloat16())


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_masters_move_as_float32_weights_would(clip: float) -> None:
    torch.manual_seed(0)
    exact = {"first": torch.randn(SHAPE), "second": torch.randn(7)}
    module, run = Two(exact), Run(lr=1e-2, grad_clip=clip, weight_decay=0.1)
    weights = Weights(module, exact, run)
    plain = [nn.Parameter(value.clone()) for value in exact.values()]
    oracle = torch.optim.AdamW(plain, lr=1e-2, betas=(run.beta1, run.beta2), weight_decay=0.1)
    for reached in ([0, 0, 0, 1], [0, 0], [0, 1]):  # the second step reaches one weight only
        for weight in plain:
            weight.grad = torch.zeros_like(weight)
        for number in reached:
            compute = weights.parameters[number]
            gradient = torch.randn(compute.shape).bfloat16()
            (compute * gradient).sum().backward()
            plain[number].grad += gradient.float()  # type: ignore[operator]
        norm = nn.utils.clip_grad_norm_(plain, clip or float("inf"))
        assert weights.step(1e-2) == pytest.approx(float(norm))
        oracle.step()
        for master, compute, want in zip(weights.masters, module.parameters(), plain, strict=True):
            torch.testing.assert_close(master, want.detach())
            assert torch.equal(compute, master.bfloat16())
