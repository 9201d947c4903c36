"""docs/claims.md: each answer is computed here by another way than the command that the page shows.

The outputs themselves are compared with what the commands print by tests/test_reference_pages.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import hypergeom

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion
from onedial.evidence.catalog import list_claims

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
TABLE = pl.read_csv(ROOT / "examples" / "solve_rates.csv")
RATES = (TABLE.get_column("n_correct") / TABLE.get_column("n")).to_numpy()
Check = Callable[[str], None]
CHECKS: dict[str, Check] = {}


def answers(heading: str) -> Callable[[Check], Check]:
    """Names a function as the check of the section under a heading."""

    def keep(check: Check) -> Check:
        CHECKS[heading] = check
        return check

    return keep


def group_gradient(rewards: np.ndarray, scores: np.ndarray, alpha: float) -> np.ndarray:
    """(1/G) Σ A_i s_i with A = (r − mean)/σ̂^α, 0 when unanimous; scores (G, D)."""
    sigma = rewards.std()
    if sigma == 0:
        return np.zeros(scores.shape[1])
    return np.asarray(((rewards - rewards.mean()) / sigma**alpha) @ scores / len(rewards))


def drawn(values: Callable[[int], float], size: int = 8) -> np.ndarray:
    """Mean of values(number right) over groups drawn from each prompt's 40 tries, (P,)."""
    each = np.array([values(j) for j in range(size + 1)])
    return np.array([hypergeom.pmf(range(size + 1), 40, k, size) @ each for k in TABLE.get_column("n_correct")])


def shown(text: str, *lines: str) -> None:
    """Each line stands in the section, whatever its spaces."""
    flat = " ".join(text.split())
    for line in lines:
        assert " ".join(line.split()) in flat, line


@answers("Three settings of one dial")
def axes(text: str) -> None:
    grpo, dr_grpo, dapo = (ALGORITHMS[name] for name in ("naive_grpo", "dr_grpo", "dapo"))
    assert (grpo.dial, dapo.dial, dr_grpo.dial) == (1, 1, 0)
    assert (dapo.keep, dapo.refill, grpo.keep, dr_grpo.keep) == ("mixed", True, "all", "all")


@answers("The size of the update")
def size_of_the_update(text: str) -> None:
    rng = np.random.default_rng(0)
    for alpha in (0.0, 1.0, 2.0):
        rewards, scores = np.array([1, 1, 0, 0, 0, 1, 0, 0.0]), rng.normal(size=(8, 5))
        difference = scores[rewards == 1].mean(axis=0) - scores[rewards == 0].mean(axis=0)
        assert group_gradient(rewards, scores, alpha) == pytest.approx(rewards.std() ** (2 - alpha) * difference)
    # pure noise: at α = 1 the mean square norm is V/G for 1 and for 4 right of 8; at α = 0 it has σ̂² too
    squares = {}
    for k in (1, 4):
        rewards = np.array([1.0] * k + [0.0] * (8 - k))
        noise = rng.normal(size=(20_000, 8, 1))
        squares[k] = [np.mean([group_gradient(rewards, s, a) ** 2 for s in noise[:4000]]) for a in (1.0, 0.0)]
        assert squares[k][0] == pytest.approx(1 / 8, rel=0.1)
    assert squares[4][1] / squares[1][1] == pytest.approx(0.25 / (7 / 64), rel=0.15)
    scores = rng.normal(size=(4, 3))
    plain, signed = np.array([1, 1, 0, 0.0]), np.array([1, 1, -1, -1.0])
    assert group_gradient(signed, scores, 0.0) == pytest.approx(2 * group_gradient(plain, scores, 0.0))
    assert group_gradient(signed, scores, 1.0) == pytest.approx(group_gradient(plain, scores, 1.0))


@answers("A correlation above 0.92")
def correlation(text: str) -> None:
    rng = np.random.default_rng(1)
    sigma, norm = [], []
    for p in rng.beta(0.5, 0.5, 4000):
        rewards = (rng.random(8) < p).astype(float)
        gradient = group_gradient(rewards, rng.normal(size=(8, 30)), 1.0)
        sigma.append(rewards.std())
        norm.append(float(np.linalg.norm(gradient)))
    mixed = np.array(sigma) > 0
    among_all = np.corrcoef(sigma, norm)[0, 1]
    among_mixed = np.corrcoef(np.array(sigma)[mixed], np.array(norm)[mixed])[0, 1]
    assert among_all > 0.9 and abs(among_mixed) < 0.1, "the same gradients, pure noise"


@answers("Clip and KL")
def clip_and_kl(text: str) -> None:
    # a unanimous group has advantages 0; k3 against another reference still has a gradient
    logits = torch.tensor([0.2, -0.4, 0.1], dtype=torch.double, requires_grad=True)
    reference = torch.tensor([-0.3, 0.5, 0.0], dtype=torch.double)
    logp = torch.log_softmax(logits, 0)[1]
    ratio = torch.log_softmax(reference, 0)[1] - logp
    (gradient,) = torch.autograd.grad(ratio.exp() - ratio - 1, logits)
    assert gradient.abs().max() > 0.1
    with_kl = {name for name, row in ALGORITHMS.items() if row.kl_in_loss and row.source == "policy"}
    assert "grpo" in with_kl and not {"naive_grpo", "dr_grpo", "rloo"} & with_kl
    shown(text, "  grpo         +0.00 +0.00 +0.00 +0.00  4 of 4", "  rloo         +0.00 +0.00 +0.00 +0.00  0 of 4")


@answers("Which prompts deserve the most weight")
def weights(text: str) -> None:
    def factor(p: float, size: int) -> float:  # E[σ̂]/(pq) from the binomial
        chance = (math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1))
        return sum(c * math.sqrt(k * (size - k)) / size for k, c in enumerate(chance)) / (p * (1 - p))

    assert factor(1e-9, 8) == pytest.approx(math.sqrt(7), rel=1e-6) and factor(0.3, 2) == pytest.approx(1.0)
    middles = [f"{factor((i + 0.5) / 10, 8):.1f}" for i in range(10)]
    endless = [f"{((i + 0.5) / 10 * (9.5 - i) / 10) ** -0.5:.1f}" for i in range(10)]
    shown(text, "W, α 1 * " + " ".join(middles), "W, endless * " + " ".join(endless))
    extreme = (RATES <= 0.1) | (RATES >= 0.9)
    for power in (1.0, 0.5):
        weight = (RATES * (1 - RATES)) ** power
        shown(text, f"{100 * weight[extreme].sum() / weight.sum():.1f} %")


@answers("How many tries")
def tries(text: str) -> None:
    rows = []
    for i in range(5):
        p = (i + 0.5) / 10
        size = 2
        while dispersion.expected_sigma(p, size) < 0.95 * math.sqrt(p * (1 - p)):
            size += 1
        rows.append(size)
    shown(text, "G for 95 % * " + " ".join(map(str, [*rows, *rows[::-1]])))
    p = np.clip(RATES, 1e-3, 1 - 1e-3)
    rule = 1 / (p * (1 - p))
    assert rule[(RATES < 0.05) | (RATES > 0.95)].sum() / rule.sum() > 0.95, "nearly all tries go to the ends"


@answers("Silent groups by group size")
def silence(text: str) -> None:
    for size in (4, 8, 16, 32):
        plug_in = float((RATES**size + (1 - RATES) ** size).mean())
        unbiased = float(drawn(lambda j, size=size: float(j in (0, size)), size).mean())  # type: ignore[misc]
        assert unbiased < plug_in
        line = next(line for line in text.splitlines() if line.split()[:1] == [str(size)])
        assert f"{100 * unbiased:.1f} %" in line and line.endswith(f"{100 * plug_in:.1f} %")
    assert float((RATES**4000 + (1 - RATES) ** 4000).mean()) == pytest.approx(30 / 69)


@answers("Dr. GRPO stalls")
def stalls(text: str) -> None:
    plain, divided = (
        float(drawn(lambda j, power=power: (math.sqrt(j * (8 - j)) / 8) ** power).mean())  # type: ignore[misc]
        for power in (2, 1)
    )
    shown(text, f"{plain:.4f}", f"{divided:.4f}", f"{divided / plain:.1f} times")


@answers("The table of the lesson")
def table_of_the_lesson(text: str) -> None:
    y = np.array([1, 1, 1, 0.0])
    assert f"{(y - y.mean())[3] / y.std():.2f}" == "-1.73"
    sample = (y - y.mean()) / y.std(ddof=1)
    assert sample == pytest.approx([0.5, 0.5, 0.5, -1.5])
    assert 0.5 / np.array([1, 0, 1, 0.0]).std(ddof=1) == pytest.approx(0.866, abs=1e-3)
    shown(text, "-1.73", "+0.87", "-1.50")


@answers("Dividing makes the easy prompt louder")
def louder(text: str) -> None:
    x, y = np.array([1, 0, 1, 0.0]).std(), np.array([1, 1, 1, 0.0]).std()
    assert x > y
    shown(
        text,
        f"from a ratio of {x**2 / y**2:.2f} to {x / y:.2f}",
        f"X {x:.2f} and Y {y:.2f}",
        f"{x**2:.2f} and {y**2:.2f}",
    )


@answers("Biased toward shorter responses")
def shorter(text: str) -> None:
    # (1/4)·A/|o| by hand, in thousandths: right and short, right and long, wrong and short, wrong and long
    shown(
        text,
        "naive_grpo "
        + " ".join(f"{1000 * a / length / 4:+.3g}" for a, length in ((1, 10), (1, 100), (-1, 10), (-1, 100))),
    )


@answers("Ten times the gradient")
def ten_times(text: str) -> None:
    rng = np.random.default_rng(3)
    norms = [np.linalg.norm(rng.normal(size=(200, length, 50)).sum(axis=1), axis=1).mean() for length in (10, 100)]
    assert norms[1] / norms[0] == pytest.approx(math.sqrt(10), rel=0.05)
    shown(text, f"{math.sqrt(10):.1f} times")


@answers("Interchangeable")
def interchangeable(text: str) -> None:
    tokens, half = 220, 2**-0.5  # verl's row: sample deviation of (1, 0) is 2^−½
    shown(text, "verl_grpo " + " ".join(f"{1000 * s * half / tokens:+.3g}" for s in (1, -1, 1, -1)))
    # per group: 1/(2 groups · own tokens), so a token of the short group weighs ten times as much
    shown(text, "dapo " + " ".join(f"{1000 * s / 2 / own:+.3g}" for own in (20, 200) for s in (1, -1)))


@answers("The same KL anchor")
def kl_anchor(text: str) -> None:
    row = ALGORITHMS["dr_grpo"]
    assert (row.kl_coef, row.aggregate, row.dial) == (0.0, "fixed_length", 0.0)


@answers("Secretly DPO")
def secretly_dpo(text: str) -> None:
    rewards = np.array([1.0, 0.0])
    assert group_gradient(rewards, np.array([[1.0], [0.0]]), 1.0) == pytest.approx([0.5])
    coefficients = []
    for margin in (-2.0, 0.0, 2.0):
        chosen = torch.tensor([margin], dtype=torch.double, requires_grad=True)
        (gradient,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(0.1 * chosen).sum(), chosen)
        coefficients.append(-float(gradient))
    assert coefficients[0] > coefficients[1] > coefficients[2], "falls as the margin grows"


@answers("97.6 % with an eighth of the rollouts")
def two_rollouts(text: str) -> None:
    p = np.linspace(0.01, 0.99, 50)
    assert dispersion.expected_sigma(p, 2) == pytest.approx(p * (1 - p))
    ratio = dispersion.expected_sigma(p, 16) / (p * (1 - p))
    assert ratio.max() / ratio.min() > 1.5, "at 16 the weight is another one"


@answers("An unbiased k3")
def unbiased_k3(text: str) -> None:
    logits = torch.tensor([0.7, -0.2, 0.1, -1.0], dtype=torch.double, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([-0.5, 0.3, 0.4, 0.0], dtype=torch.double), 0)

    def gradient(of: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(of, logits, retain_graph=True)
        return found

    logp = torch.log_softmax(logits, 0)
    chance, log_ratio = logp.exp().detach(), reference - logp
    forward = (logp.exp() * (logp - reference)).sum()
    reverse = (reference.exp() * (reference - logp)).sum()
    k1, k2, k3 = -log_ratio, log_ratio**2 / 2, log_ratio.exp() - log_ratio - 1
    assert float((chance * k3).sum().detach()) == pytest.approx(float(forward.detach()))
    # in the loss the samples are given: the expectation of the gradient, not the gradient of the expectation
    assert torch.allclose(gradient((chance * k3).sum()), gradient(reverse))
    assert torch.allclose(gradient((chance * k2).sum()), gradient(forward))
    assert gradient((chance * k1).sum()).abs().max() < 1e-12
    assert not torch.allclose(gradient(reverse), gradient(forward), atol=1e-2)


@answers("A third of the steps")
def third_of_the_steps(text: str) -> None:
    mixed = float(drawn(lambda j: float(0 < j < 8)).mean())
    shown(text, f"at {100 * mixed:.0f} % mixed, {1 / mixed:.1f} groups", f"{100 * mixed:.1f} %")


@answers("A raised clip keeps entropy up")
def raised_clip(text: str) -> None:
    from onedial.core.maths.surrogate import clipped_tokens

    row = ALGORITHMS["naive_grpo"]
    assert row.clip_high is not None and 0.01 * (1 + row.clip_high) == pytest.approx(0.012)
    assert 0.9 * (1 + row.clip_high) > 1 and row.updates_per_iteration == 1 < ALGORITHMS["dapo"].updates_per_iteration
    for ratio, touched in ((1.0, False), (1.5, True)):  # a first update has ratio 1 on every token
        low, high = clipped_tokens(torch.tensor([ratio, ratio]), torch.tensor([1.0, -1.0]), row)
        assert high.tolist() == [touched, False] and not low.any()


@answers("Critic against group")
def critic_against_group(text: str) -> None:
    assert ALGORITHMS["vapo"].needs_critic and not ALGORITHMS["dapo"].needs_critic


@pytest.mark.parametrize("heading", SECTIONS)
def test_what_is_so_is_computed(heading: str) -> None:
    assert heading in CHECKS, "a claim without a check: add one, or take the claim off the page"
    CHECKS[heading](SECTIONS[heading])


def test_every_claim_is_quoted_answered_and_shown() -> None:
    assert list(SECTIONS) == list(CHECKS)
    for heading, text in SECTIONS.items():
        assert text.strip().startswith("> "), f"{heading}: what is claimed?"
        assert re.search(r"^\*\*.+?\*\*", text, re.MULTILINE), f"{heading}: what is so?"
        assert "<!-- output: onedial" in text or "`onedial " in text or "above" in text, f"{heading}: which command?"


def test_reproductions_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`onedial reproduce\s+([\w-]+)`", PAGE))
    assert len(named) >= 7 and named <= {*list_claims(), "NAME"}
