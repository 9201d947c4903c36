"""The unified view: the factor of ∇log π in each algorithm row, written out from the cells of the row.

Every row ascends  ∇J = E over data [ Σ_t weight · coefficient · ∇log π(o_t | q, o_<t) ]  (DeepSeekMath,
arXiv:2402.03300, §5.2, Eq. 5 and Table 10), and differs in three things: the source of the data, the reward, and the
coefficient. The text of each cell value stands in one dict, so a new value needs one entry and a new row none.

    r reward, r̄ its mean in the group, r̄₋ᵢ that of the others, b̂₋ᵢ that of the others and of what was believed, σ̂ its
    std (in the group, or σ̂_batch), ρ = π/π_old of a token, s = π/π_old of a sequence (geometric mean), π_ref the frozen
    reference, 1[·] 1 where it holds
    b_k⁺, b_k⁻ the mean of the best reward of k rollouts of the group, with this one among them, and without
    w the softmax of r/σ̂^α in the group, P that of log π/π_old of its sequences, H the entropy of π at a token
    GAE(γ, λ) = Σ_k (γλ)^k·δ_{t+k} with δ = r_t + γV_{t+1} − V_t, V the critic's
    |o| tokens of the sequence, Σ|o| of the step, L a constant, B sequences, N groups of the step
"""

from __future__ import annotations

from dataclasses import dataclass

from onedial.core.algorithm import Algorithm

SOURCES = {
    "policy": "o ~ π",
    "reference": "o ~ π_ref",
    "dataset": "o ~ data",
    "pairs": "o⁺, o⁻ ~ data",
}
REWARDS = {"task": "r", "signed": "2r − 1", "correct": "1[correct]", "one": "1"}
BASELINES = {"none": "", "group_mean": "r̄", "leave_one_out": "r̄₋ᵢ", "posterior": "b̂₋ᵢ", "critic": "V"}
RATIOS = {"none": "", "token": "ρ", "sequence": "s"}
KLS = {"k1": "", "k2": "·log π_ref/π", "k3": "(π_ref/π − 1)"}
LISTS = {"forward": "w − P", "reverse": "P·(log w/P + KL(P‖w))"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
WEIGHTS = {
    "sequence_mean": "1/(B·|o|)",
    "token_mean": "1/Σ|o|",
    "group_token_mean": "1/(N·Σ_group|o|)",
    "fixed_length": "1/(B·L)",
    "sequence_sum": "1/B",
}


@dataclass(frozen=True)
class Coefficient:
    """One line of the unified table."""

    row: str
    source: str
    reward: str
    coefficient: str
    weight: str


def describe_coefficient(row: Algorithm) -> Coefficient:
    """The line of a row in the unified table, from its cells alone."""
    pairs = row.preference_beta > 0
    return Coefficient(
        row=row.name,
        source=SOURCES[row.source] + ("" if row.keep == "all" else ", mixed"),
        reward="o⁺ > o⁻" if pairs else _reward(row),
        coefficient=_pair(row) if pairs else _rollout(row),
        weight="1/N" if row.needs_whole_groups else WEIGHTS[row.aggregate],
    )


def _reward(row: Algorithm) -> str:
    length = " + R_length" if row.penalizes_length else ""
    kl = f" − {row.kl_coef:g}·KL" if row.kl_coef > 0 and row.kl_in == "reward" else ""
    return REWARDS[row.reward] + length + kl


def _pair(row: Algorithm) -> str:
    """β·σ(−β·m) for the chosen, minus that for the rejected; m is the margin of `maths.preference`."""
    return f"±β·σ(−β·m), β = {row.preference_beta:g}"


def _rollout(row: Algorithm) -> str:
    """Ratio times advantage, with the clip range, and the terms of KL, entropy and positive likelihood."""
    text = LISTS.get(row.listwise) or _advantage(row)
    ratio = RATIOS[row.ratio_level]
    if ratio and row.listwise == "none":
        text = f"{ratio}·{text}"
    if row.clip_low is not None and row.clip_high is not None:
        text += f", {ratio} in [{1 - row.clip_low:.6g}, {1 + row.clip_high:.6g}]"
    if row.clip_dual is not None:
        text += f", loss ≤ {row.clip_dual:g}·|A|"
    if row.kl_in_loss and KLS[row.kl_estimator]:
        text += f" + {row.kl_coef:g}{KLS[row.kl_estimator]}"
    if row.entropy_coef > 0:
        text += f" + {row.entropy_coef:g}·∇H"
    if row.positive_nll > 0:
        text += f" + {row.positive_nll:g}·1[correct]"
    return text


def _advantage(row: Algorithm) -> str:
    if row.needs_critic:
        lam = f"1 − 1/({row.lambda_length:g}·|o|)" if row.lambda_length > 0 else f"{row.lambda_policy:g}"
        return f"GAE({row.gamma:g}, {lam})" + (", whitened" if row.whiten else "")
    if row.pass_k > 1:
        k = str(row.pass_k).translate(SUBSCRIPTS)
        return f"{row.pass_k}·(b{k}⁺ − b{k}⁻)"
    baseline = getattr(row.baseline, "__name__", "b") if callable(row.baseline) else BASELINES[row.baseline]
    reward = "r" if row.reward == "task" or (row.reward == "signed" and baseline) else REWARDS[row.reward]
    text = f"({reward} − {baseline})" if baseline else f"({reward})" if row.reward == "signed" else reward
    if row.dial == 0:
        return text
    sigma = "σ̂" if row.scale_over == "group" else "σ̂_batch"
    return f"{text}/{sigma}" + ("" if row.dial == 1 else f"^{row.dial:g}")
