"""The update of one iteration: mini-batches, micro-batches, gradients and optimizer steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from onedial.core.batch import Batch, Counts
from onedial.core.maths.loss import contributes, policy_loss
from onedial.core.settings import Run
from onedial.training.cores import share_cores
from onedial.training.rollout.collector import Progress
from onedial.training.rollout.engine import derive_seed
from onedial.training.trainer.critic import Critic, critic_rate
from onedial.training.trainer.packing import make_micro_batches, split_minibatches
from onedial.training.trainer.policy import Policy, evaluate_logps
from onedial.training.trainer.stopping import check_finite


@dataclass(frozen=True)
class Updated:
    """The results of the updates of an iteration.

    `loss` and `grad_norm` are means over the steps made, `sums` are over the tokens trained on, in all epochs.
    `minibatches` is the number per epoch, which cannot exceed the number of groups.
    """

    lr: float
    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    value_loss: float | None = None
    minibatches: int = 0
    epochs: int = 1

    @property
    def tokens_trained(self) -> int:
        """Completion tokens that had a gradient, each counted once whatever the number of epochs."""
        return int(self.sums.get("tokens", 0)) // self.epochs

    def mean(self, name: str, over: str = "tokens") -> float | None:
        """Mean of a sum over trained tokens (or pairs); None where it was not measured."""
        count = self.sums.get(over, 0.0)
        return self.sums[name] / count if count and name in self.sums else None


def learning_rate(run: Run, iteration: int) -> float:
    """Rate of an iteration (1 … N): linear warm-up, then constant, or linear or cosine towards 0 at the end."""
    if iteration <= run.warmup:
        return run.lr * iteration / run.warmup
    share = (iteration - 1 - run.warmup) / max(1, run.iterations - run.warmup)
    factors = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))}
    return run.lr * factors[run.schedule]


def update(
    policy: Policy,
    reference: nn.Module | None,
    batch: Batch,
    iteration: int,
    progress: Progress,
    *,
    critic: Critic | None = None,
) -> Updated:
    """Trains on a batch with advantages, the critic first. `iteration` counts from 1.

    In each of `epochs_per_iteration` passes the batch is divided anew into `updates_per_iteration` mini-batches with
    one optimizer step each; the ratio always compares with the policy before the first step. During `critic_warmup`
    only the critic learns. Raises NotFinite before a step whose loss or gradient is inf or nan.
    """
    run, row = policy.run, policy.run.algorithm
    lr = learning_rate(run, iteration)
    epochs = [
        split_minibatches(batch, row.updates_per_iteration, _minibatch_seed(run, iteration, epoch))
        for epoch in range(row.epochs_per_iteration)
    ]
    parts = [part for epoch in epochs for part in epoch]
    value_loss = None if critic is None else critic.learn(batch, parts, critic_rate(run, lr), progress)
    if iteration <= row.critic_warmup:
        return Updated(lr, value_loss=value_loss, minibatches=len(epochs[0]))
    if row.reference_in_loss and reference is not None:
        batch = batch.annotate(ref_logp=evaluate_logps(policy, batch, reference))
    if len(parts) > 1:
        batch = batch.annotate(old_logp=_old_logps(policy, batch, epochs[0]))
    sums: Counter[str] = Counter()
    losses, norms = [], []
    for number, part in enumerate(parts):
        minibatch = batch.select(part)
        live = contributes(row, minibatch).nonzero().squeeze(1)
        if not len(live):
            continue
        losses.append(_accumulate_gradient(policy, minibatch, live, sums, _part_progress(progress, number, len(parts))))
        check_finite("loss", losses[-1], minibatch)
        norms.append(policy.step(lr))
        check_finite("gradient norm", norms[-1], minibatch)
    return Updated(lr, len(norms), _mean(losses), _mean(norms), dict(sums), value_loss, len(epochs[0]), len(epochs))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _minibatch_seed(run: Run, iteration: int, epoch: int) -> int:
    """The seed that divides groups into mini-batches; its path counts from 0, as in runs of earlier versions."""
    path = ("minibatch", iteration - 1, *([epoch] if epoch else []))
    return derive_seed(run.seed, *path)


def _part_progress(progress: Progress, number: int, parts: int) -> Callable[[int, int], None]:
    """Progress within one of several mini-batches: takes micro-batches done and their total."""
    return lambda done, total: progress("update", number * total + done, parts * total)


def _accumulate_gradient(
    policy: Policy, minibatch: Batch, live: Tensor, sums: Counter[str], progress: Callable[[int, int], None]
) -> float:
    """Adds the gradient of a mini-batch, micro-batch by micro-batch, and its sums; returns its loss.

    Only the `live` rollouts are computed; the others have no gradient but count in every denominator.
    """
    run, counts, loss = policy.run, Counts.of(minibatch), 0.0
    whole = run.algorithm.needs_whole_groups
    pieces = make_micro_batches(minibatch.select(live), run.micro_batch_tokens, whole_groups=whole)
    for done, piece in enumerate(pieces):
        progress(done, len(pieces))
        share_cores()
        piece_loss, piece_sums = _backward(policy, piece, counts)
        loss += piece_loss
        sums.update(piece_sums)
    return loss


def _backward(policy: Policy, piece: Batch, counts: Counts) -> tuple[float, dict[str, float]]:
    piece = piece.to(policy.device)
    if policy.run.algorithm.entropy_coef > 0:
        logp, entropy, layout = policy.logps_with_entropy(piece)
        piece = piece.annotate(entropy=entropy)
    else:
        logp, layout = policy.logps(piece)
    if piece.get("old_logp") is None and policy.run.algorithm.ratio_level != "none":
        piece = piece.annotate(old_logp=_logp_before(piece, logp.detach()))
    result = policy_loss(policy.run.algorithm, piece.annotate(logp=logp), counts)
    policy.backward(result.loss, layout)
    return float(result.loss.detach()), result.sums


def _old_logps(policy: Policy, batch: Batch, parts: list[Tensor]) -> Tensor:
    """(T,) log-probabilities before the iteration's first step: for later mini-batches the policy has changed since."""
    old = torch.empty(len(batch.tokens))
    for part in parts:
        minibatch = batch.select(part)
        old[batch.token_index(part)] = _logp_before(minibatch, evaluate_logps(policy, minibatch))
    return old


def _logp_before(batch: Batch, logp: Tensor) -> Tensor:
    """(T,) old log-probabilities before the first step: the trainer's own, so that the ratio is 1. For stale rollouts
    they are the engine's, so that the ratio corrects for their age."""
    stale, engine = batch.get("stale"), batch.get("engine_logp")
    if stale is None or engine is None:
        return logp
    return torch.where(stale[batch.rollout_of_token], engine, logp)
