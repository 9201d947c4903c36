"""THE TABLE: one row per algorithm, with its paper and equation. This is the only place that knows algorithm names.

Where a paper and its released code differ, the comment says which one the row follows. Learning rates and batch sizes
belong to the run, not to the row. Add a row here, and every generic test checks it.
"""

from __future__ import annotations

from dataclasses import replace

from onedial.core.algorithm import Algorithm
from onedial.core.errors import ConfigError, suggest

REINFORCE = Algorithm(
    "reinforce",
    "Williams 1992, REINFORCE, Eq. 4 with no baseline",
    baseline="none",
    dial=0.0,
    ratio_level="none",
    aggregate="sequence_sum",
)

RLOO = replace(
    REINFORCE,
    name="rloo",
    paper="Ahmadian et al. 2024, arXiv:2402.14740, Eq. 7 without its KL; Kool et al. 2019",
    baseline="leave_one_out",
)

# DeepSeekMath does not report its clip range; 0.2 is PPO's and every implementation's.
GRPO = Algorithm(
    "grpo",
    "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Eq. 3 and 4, §4.2",
    clip_low=0.2,
    clip_high=0.2,
    kl_coef=0.04,
)

# DAPO's "naive GRPO": the published GRPO without its KL term.
NAIVE_GRPO = replace(
    GRPO, name="naive_grpo", paper="Yu et al. 2025, DAPO, arXiv:2503.14476, Table 1, first row", kl_coef=0.0
)

TWO_GRPO = replace(
    NAIVE_GRPO,
    name="two_grpo",
    paper="Wu et al. 2025, It Takes Two, arXiv:2510.00977, Eq. 12",
    group_size=2,
    clip_high=0.28,
)

DR_GRPO = replace(
    NAIVE_GRPO,
    name="dr_grpo",
    paper="Liu et al. 2025, Understanding R1-Zero-like training, arXiv:2503.20783, §3.2 and listing 1",
    dial=0.0,
    aggregate="fixed_length",
)

# Eq. 8 divides by each group's own tokens; the released code takes the mean over all tokens of the step (verl's
# token-mean). 16 updates: 512 prompts of 16 completions, in mini-batches of 512. The paper does not say whether its
# final recipe keeps the mask of Table 1's second row beside the penalty (overlong="mask_and_penalty").
DAPO = replace(
    NAIVE_GRPO,
    name="dapo",
    paper="Yu et al. 2025, DAPO, arXiv:2503.14476, Eq. 7 to 13, §4.1",
    clip_high=0.28,
    aggregate="group_token_mean",
    keep="mixed",
    refill=True,
    reward="signed",
    overlong="penalty",
    updates_per_iteration=16,
)

# For small batches, and what `make train` takes: of DAPO the dynamic sampling and the raised clip, as in its code with
# a mean over all tokens of the step, but one update of all the tokens per iteration. The clip then meets only surplus
# groups that an earlier policy wrote.
MIXED_GRPO = replace(
    NAIVE_GRPO,
    name="mixed_grpo",
    paper="GRPO on mixed groups only: Yu et al. 2025, DAPO, arXiv:2503.14476, Eq. 10 and 11",
    clip_high=0.28,
    aggregate="token_mean",
    keep="mixed",
    refill=True,
)

# The baseline is what an allocator expected of the prompt, so that unanimous groups and single rollouts teach too.
POSTERIOR = replace(
    NAIVE_GRPO,
    name="posterior",
    paper="this project: leave-one-out with a belief as earlier tries, docs/allocators.md",
    baseline="posterior",
    dial=0.0,
    clip_high=0.28,
    aggregate="token_mean",
)

# The paper's LPO_fwd with GRPO's temperature τ = σ̂ (dial 1) and one update per iteration; "reverse" is its LPO_rev.
LPO = replace(
    NAIVE_GRPO,
    name="lpo",
    paper="Qu et al. 2026, Listwise policy optimization, arXiv:2605.06139, §4, forward KL",
    clip_low=None,
    clip_high=None,
    aggregate="sequence_sum",
    listwise="forward",
)

# A fixed reference in the place of the group's mean: every group teaches, unanimous ones too.
SIGN_GRPO = replace(
    NAIVE_GRPO,
    name="sign_grpo",
    paper="Nie et al. 2026, Gradient starvation in binary-reward GRPO, arXiv:2605.07689, abstract: A = 2r − 1",
    baseline="none",
    dial=0.0,
    reward="signed",
)

PASS_AT_K = replace(
    RLOO,
    name="pass_at_k",
    paper="Walder and Karkhanis 2025, Pass@K policy optimization, arXiv:2505.15201, leave-one-out baseline",
    pass_k=4,
)

GSPO = replace(
    NAIVE_GRPO,
    name="gspo",
    paper="Zheng et al. 2025, GSPO, arXiv:2507.18071, Eq. 5 to 7",
    ratio_level="sequence",
    clip_low=3e-4,
    clip_high=4e-4,
    updates_per_iteration=4,
)

# The advantages of PPO as it is used on language models, not of Schulman's Atari code: KL to the reference as a token
# reward (k1; coefficient 0.02 and several mini-batches of one pass as InstructGPT, arXiv:2203.02155, App. C.4),
# whitening and value clipping as in TRL's and verl's code (no paper has them), no entropy bonus. InstructGPT writes one
# completion per prompt (group_size=1); a critic needs no group, so the run's size stands.
PPO = Algorithm(
    "ppo",
    "Schulman et al. 2017, arXiv:1707.06347, Eq. 7 and 11; GAE arXiv:1506.02438, Eq. 16",
    baseline="critic",
    dial=0.0,
    clip_low=0.2,
    clip_high=0.2,
    aggregate="token_mean",
    kl_coef=0.02,
    kl_estimator="k1",
    kl_in="reward",
    updates_per_iteration=4,
    lambda_policy=0.95,
    lambda_critic=0.95,
    value_clip=0.2,
    whiten=True,
)

# λ = 1 − 1/(0.05·l) is 0 up to 20 tokens; for short answers raise lambda_length. The paper clips no values and does not
# say whether it whitens. Its 16 updates per iteration are of 512 completions each; at a laptop's batch 4 are enough.
VAPO = replace(
    PPO,
    name="vapo",
    paper="Yue et al. 2025, VAPO, arXiv:2504.05118, §4.1 to 4.3",
    clip_high=0.28,
    kl_coef=0.0,
    kl_estimator="k3",
    kl_in="loss",
    positive_nll=0.1,
    lambda_policy=1.0,
    lambda_length=0.05,
    lambda_critic=1.0,
    value_clip=None,
    whiten=False,
    critic_warmup=50,
)

# The rows of DeepSeekMath's unified view (§5.2, Table 10) that compare nothing inside a group: REINFORCE whose reward
# says what is imitated. Each sequence counts the same, as the table's 1/|o| says; TRL's SFTTrainer averages over the
# tokens of the batch (aggregate="token_mean").
SFT = replace(
    REINFORCE,
    name="sft",
    paper="supervised fine-tuning; Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, §5.2.1, Table 10",
    source="dataset",
    reward="one",
    group_size=1,
    aggregate="sequence_mean",
)

RFT = replace(
    SFT,
    name="rft",
    paper="Yuan et al. 2023, rejection sampling fine-tuning, arXiv:2308.01825, §3.3; DeepSeekMath, Table 10",
    source="reference",
    reward="correct",
    group_size=None,
)

ONLINE_RFT = replace(
    RFT, name="online_rft", paper="Shao et al. 2024, DeepSeekMath, arXiv:2402.03300, Table 10", source="policy"
)

# DeepSeekMath's table writes DPO with a mean over tokens and without the leading β; this is the published loss.
DPO = Algorithm(
    "dpo",
    "Rafailov et al. 2023, Direct preference optimization, arXiv:2305.18290, Eq. 7",
    baseline="none",
    dial=0.0,
    ratio_level="none",
    aggregate="sequence_sum",
    source="pairs",
    group_size=2,
    preference_beta=0.1,
)

# Presets: the same objective with another library's conventions, for like-for-like comparison.
TRL_DAPO = replace(
    NAIVE_GRPO,
    name="trl_dapo",
    paper="TRL 1.16 GRPOTrainer defaults: loss_type='dapo', scale_rewards='group'",
    ddof=1,
    eps=1e-4,
    aggregate="token_mean",
)
TRL_GRPO = replace(TRL_DAPO, name="trl_grpo", paper="TRL 1.16, loss_type='grpo'", aggregate="sequence_mean")
TRL_DR_GRPO = replace(
    TRL_DAPO,
    name="trl_dr_grpo",
    paper="TRL 1.16, loss_type='dr_grpo', scale_rewards='none'",
    dial=0.0,
    aggregate="fixed_length",
)
TRL_GSPO = replace(
    TRL_GRPO,
    name="trl_gspo",
    paper="TRL 1.16, importance_sampling_level='sequence', loss_type='grpo'",
    ratio_level="sequence",
    clip_low=3e-4,
    clip_high=4e-4,
)
VERL_GRPO = replace(
    NAIVE_GRPO,
    name="verl_grpo",
    paper="verl 0.9 adv_estimator=grpo, loss_agg_mode=token-mean, clip_ratio_c=3",
    ddof=1,
    clip_dual=3.0,
    aggregate="token_mean",
)
VERL_DR_GRPO = replace(
    VERL_GRPO,
    name="verl_dr_grpo",
    paper="verl 0.9 norm_adv_by_std_in_grpo=False, loss_agg_mode=seq-mean-token-sum-norm",
    dial=0.0,
    aggregate="fixed_length",
)

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        REINFORCE,
        RLOO,
        GRPO,
        NAIVE_GRPO,
        TWO_GRPO,
        DR_GRPO,
        MIXED_GRPO,
        DAPO,
        LPO,
        SIGN_GRPO,
        PASS_AT_K,
        POSTERIOR,
        GSPO,
        PPO,
        VAPO,
        SFT,
        RFT,
        ONLINE_RFT,
        DPO,
        TRL_GRPO,
        TRL_DAPO,
        TRL_DR_GRPO,
        TRL_GSPO,
        VERL_GRPO,
        VERL_DR_GRPO,
    )
}


def get_algorithm(name: str) -> Algorithm:
    """The row of that name.

    Raises ConfigError with the nearest name when there is none.
    """
    if name not in ALGORITHMS:
        raise ConfigError(
            f"algorithm {name!r} is not in the table{suggest(name, ALGORITHMS)}; "
            f"rows: {', '.join(ALGORITHMS)} (onedial algorithms prints them)"
        )
    return ALGORITHMS[name]
