"""The usual column names of users' own tables. The first name found is used; case, spaces and dashes do not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

STRONG_IDS = (
    "prompt_id", "problem_id", "question_id", "task_id", "example_id", "doc_id", "prompt_idx", "problem_idx",
    "question_idx", "example_idx", "task_idx", "prompt_index", "problem_index", "question_index", "qid", "pid",
    "instance_id", "item_id", "unique_id", "prompt_hash", "orig_dset_idx",
)  # fmt: skip
WEAK_IDS = ("id", "index", "idx", "_id", "uid", "key", "sample_id")
TEXTS = (
    "prompt", "question", "problem", "input", "instruction", "query", "prompt_text", "problem_statement",
    "question_content", "messages", "input_text", "prompts", "inputs",
)  # fmt: skip

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "prompt": TEXTS,
    "group_id": ("group_id", "group", "group_idx", "group_index"),
    "rollout_index": (
        "rollout_index", "rollout_idx", "rollout", "rollout_id", "sample_idx", "sample_index", "completion_idx",
        "completion_id", "generation_idx", "attempt", "trial", "repeat", "sample_num", "traj_idx", "response_idx",
    ),
    "iteration": ("iteration", "step", "global_step", "training_step", "train_step", "epoch", "round", "checkpoint"),
    "split": ("split", "phase", "mode"),
    "completion": (
        "completion", "response", "output", "generation", "sample", "model_output", "generated_text", "solution_text",
        "generated", "model_response", "output_text", "completions", "responses", "generated_answer", "code",
        "outputs",
    ),
    "answer": (
        "answer", "ground_truth", "reference", "gts", "target", "gold", "reference_answer", "gold_answer", "label",
    ),
    "parsed_answer": (
        "parsed_answer", "extracted_answer", "pred", "prediction", "predicted_answer", "extracted", "model_answer",
        "final_answer",
    ),
    "correct": (
        "correct", "is_correct", "iscorrect", "correctness", "passed", "is_passed", "pass", "success", "is_success",
        "solved", "resolved", "is_resolved", "acc", "accuracy", "right", "is_right", "exact_match", "em", "verdict",
        "judgement", "judgment", "graded", "grade", "status", "math_verify", "correct_answer",
    ),
    "outcome_reward": (
        "outcome_reward", "reward", "score", "total_reward", "final_reward", "accuracy_reward", "reward_score",
        "rewards", "return", "verifier_score",
    ),
    "outcome": ("outcome", "result"),
    "shaped_reward": ("shaped_reward", "training_reward", "reward_shaped"),
    "completion_tokens": (
        "completion_tokens", "response_tokens", "num_tokens", "output_tokens", "completion_length", "response_length",
        "generated_tokens", "num_completion_tokens", "n_tokens", "gen_len", "output_length", "num_generated_tokens",
        "token_count", "tokens", "completion_len", "response_len", "token_ids", "output_token_ids", "completion_ids",
    ),
    "prompt_tokens": (
        "prompt_tokens", "input_tokens", "prompt_length", "num_prompt_tokens", "prompt_len", "input_length",
    ),
    "truncated": ("truncated", "is_truncated", "clipped", "is_clipped", "overlong", "hit_length_limit"),
    "finish_reason": ("finish_reason", "stop_reason", "finish", "stop_condition"),
    "mean_logp": ("mean_logp", "mean_logprob", "avg_logprob", "avg_logp"),
    "entropy": ("entropy", "mean_entropy"),
    "advantage": ("advantage", "advantages"),
    "policy_version": ("policy_version", "model_version", "weight_version"),
    "source": ("source", "data_source", "dataset", "env", "environment", "task", "domain", "subject"),
    "level": ("level", "difficulty"),
}  # fmt: skip

RATE_NAME = re.compile(
    r"(^|_)(solve|solved|pass|passed|success|correct|accuracy|acc|win)_?(rate|ratio|prob|probability|fraction|share)(_|$)"
    r"|^(avg|mean|acc|accuracy|pass|score)@\d+$|^pass_at_1$|^(p_correct|p_success|p_hat|empirical_accuracy)$"
)
WEAK_RATES = ("acc", "accuracy", "mean_acc", "avg_acc", "mean_accuracy", "avg_accuracy", "mean_score", "avg_score",
              "mean_reward", "avg_reward", "score", "rate", "average", "difficulty")  # fmt: skip
RIGHT_COUNTS = ("k", "n_correct", "num_correct", "correct_count", "correctness_count", "n_pass", "num_pass",
                "num_passed", "n_passed", "passes", "solved_count", "n_success", "num_success", "num_solved",
                "correct_num")  # fmt: skip
TRY_COUNTS = ("n", "num_samples", "n_samples", "n_rollouts", "num_rollouts", "rollouts", "attempts", "num_attempts",
              "n_attempts", "n_generations", "num_generations", "trials", "num_trials", "tries", "num_tries", "total",
              "total_samples", "num_responses", "sample_count", "n_total", "num_total", "n_tries",
              "n_trials")  # fmt: skip
MARK_LISTS = re.compile(
    r"(correct|graded|passed|pass_list|accs?$|is_right|success|reward|score|verif|judg|label|result)", re.I
)
TEXT_LISTS = ("completions", "responses", "generations", "outputs", "samples", "code_list", "output_list", "completion",
              "response", "output", "generation", "preds", "predictions", "model_outputs")  # fmt: skip
LENGTH_LISTS = ("completion_tokens", "response_lengths", "completion_lengths", "lengths", "num_tokens", "output_tokens",
                "token_counts", "gen_lens", "response_length")  # fmt: skip


def normalize(name: str) -> str:
    """Normalizes a column name for comparison."""
    return name.strip().lower().replace(" ", "_").replace("-", "_").replace(".", "_")


def find(columns: Iterable[str], names: Iterable[str]) -> str | None:
    """Returns the column of the file for the first of `names` that it has."""
    have = {normalize(column): column for column in columns}
    return next((have[name] for name in names if name in have), None)


def map_names(columns: set[str], given: Mapping[str, str]) -> dict[str, str]:
    """Maps our columns to the file's, first by `--map` and then by synonyms."""
    taken = set(given.values())
    found = dict(given)
    for ours, names in SYNONYMS.items():
        if ours not in found:
            theirs = find(columns - taken, names)
            if theirs is not None:
                found[ours] = theirs
                taken.add(theirs)
    return found
