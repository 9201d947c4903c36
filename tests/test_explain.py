"""The explainer in a browser: every number on the page equals the library's, at many positions of the sliders.

Oracle: `onedial.core.maths`, called with the positions that the sliders report. Needs playwright and a Chromium.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from maths_batches import batch_of, make_group
from onedial.cli.main import main
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.maths import dispersion
from onedial.core.maths.advantage import advantages
from onedial.core.maths.aggregate import AGGREGATES
from onedial.core.maths.preference import pair_loss
from onedial.core.maths.surrogate import clipped_tokens
from onedial.evidence.explainer import make_explainer_data
from onedial.training.trainer.advantages import shape_rewards

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, to drive a browser")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
POSITIONS = 24


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("explain") / "page.html"
    assert main(["explain", "-o", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Any, path: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    assert requests == [path.as_uri()], "the page must load nothing"
    page.close()


def move(page: Any, **positions: float) -> dict[str, float]:
    """Sets sliders (underscores for dashes) and returns the positions they took, which lie on their steps."""
    ids = {name.replace("_", "-"): value for name, value in positions.items()}
    taken = page.evaluate(
        """ids => { for (const [id, value] of Object.entries(ids)) document.getElementById(id).value = value;
        draw();
        return Object.fromEntries(Object.keys(ids).map(id => [id, Number(document.getElementById(id).value)])); }""",
        ids,
    )
    return {name: taken[name.replace("_", "-")] for name in positions}


def read(page: Any, *ids: str) -> list[float]:
    values = page.evaluate("ids => ids.map(id => document.getElementById(id).dataset.value)", list(ids))
    return [float(value) for value in values]


def table(page: Any, name: str) -> list[list[float]]:
    """The numbers of a table without its head, by row."""
    rows: list[list[str]] = page.evaluate(
        """id => [...document.getElementById(id).rows].slice(1)
        .map(row => [...row.querySelectorAll('td')].map(cell => cell.dataset.value))""",
        name,
    )
    return [[float(value) for value in row] for row in rows]


def close(got: float, wanted: float) -> bool:
    return math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("draw", range(POSITIONS))
def test_the_group_section_shows_the_library_s_numbers(page: Any, draw: int) -> None:
    rng = Random(f"group/{draw}")
    at = move(
        page,
        group_p=rng.uniform(0.01, 0.99),
        group_size=rng.randint(2, 64),
        group_alpha=rng.uniform(0, 2),
        group_rho=rng.uniform(0.01, 5),
    )
    p, size, alpha = at["group_p"], int(at["group_size"]), at["group_alpha"]
    sizes = np.arange(2, 513)
    per_rollout = dispersion.utility(sizes - 1, p * (1 - p), rho=at["group_rho"]) / sizes
    wanted = {
        "group-sigma": dispersion.expected_sigma(p, size),
        "group-weight": dispersion.weight(p, size, alpha=alpha),
        "group-limit": dispersion.limit_weight(p, alpha=alpha),
        "group-silent": dispersion.silent_probability(p, size),
        "group-fidelity": dispersion.fidelity(p, size),
        "group-tries-paper": dispersion.size_for_fidelity(p, 0.95),
        "group-utility": per_rollout[size - 2],
        "group-tries-cost": sizes[per_rollout.argmax()],
    }
    for name, got in zip(wanted, read(page, *wanted), strict=True):
        assert close(got, float(wanted[name])), name


def test_the_lecture_s_answers_of_ten_and_a_hundred_tokens(page: Any) -> None:
    """Hand values of the source: 0.5/10 = 0.05 and 0.5/100 = 0.005 a token."""
    page.get_by_role("button", name="10 and 100 tokens, advantage 0.5").click()
    per_answer, per_token, constant = table(page, "length-table")
    assert per_answer == pytest.approx([0.05, 0.005, 0.5, 0.5])
    assert per_token == pytest.approx([1 / 110, 1 / 110, 10 / 110, 100 / 110])
    assert constant == pytest.approx([0.0005, 0.0005, 0.005, 0.05])


@pytest.mark.parametrize("draw", range(POSITIONS))
def test_lengths_are_weighed_as_the_library_weighs_them(page: Any, draw: int) -> None:
    rng = Random(f"length/{draw}")
    at = move(
        page,
        length_a=rng.randint(1, 1000),
        length_b=rng.randint(1, 1000),
        length_advantage=rng.uniform(-2, 2),
        length_budget=rng.randint(10, 4000),
    )
    lengths = [int(at["length_a"]), int(at["length_b"])]
    for shown, aggregate in zip(
        table(page, "length-table"), ("sequence_mean", "token_mean", "fixed_length"), strict=True
    ):
        token = [w * 2 * at["length_advantage"] for w in library_weights(aggregate, lengths, int(at["length_budget"]))]
        wanted = token + [w * n for w, n in zip(token, lengths, strict=True)]
        assert all(close(a, b) for a, b in zip(shown, wanted, strict=True)), aggregate


def library_weights(aggregate: str, lengths: list[int], budget: int) -> list[float]:
    """The weight of a token of each answer of one group, from the library."""
    row = replace(
        ALGORITHMS["grpo"], aggregate=aggregate, length_budget=budget if aggregate == "fixed_length" else None
    )
    batch = one_group(lengths)
    weights: list[float] = AGGREGATES[aggregate](batch, Counts.of(batch), row).tolist()
    return weights


def one_group(lengths: list[int], correct: list[bool] | None = None) -> Batch:
    """A packed batch of one group whose answers have these lengths."""
    rewards = [float(verdict) for verdict in correct or [True] * len(lengths)]
    return batch_of(ALGORITHMS["naive_grpo"], [make_group(rewards, lengths=lengths)])


@pytest.mark.parametrize("draw", range(POSITIONS))
def test_the_clip_window_is_where_the_library_stops_the_gradient(page: Any, draw: int) -> None:
    rng = Random(f"clip/{draw}")
    at = move(page, clip_p=rng.uniform(-4, -0.005), clip_low=rng.uniform(0.01, 0.5), clip_high=rng.uniform(0.01, 0.5))
    old, floor, ceiling, gain = read(page, "clip-old", "clip-floor", "clip-ceiling", "clip-gain")
    row = replace(ALGORITHMS["grpo"], clip_low=at["clip_low"], clip_high=at["clip_high"])
    edges = torch.tensor([floor, floor, ceiling, ceiling], dtype=torch.double) / old
    nudged = edges * torch.tensor([1 - 1e-9, 1 + 1e-9, 1 - 1e-9, 1 + 1e-9], dtype=torch.double)
    low, high = clipped_tokens(nudged, torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.double), row)
    assert low.tolist() == [True, False, False, False] and high.tolist() == [False, False, False, True]
    assert math.isclose(gain, ceiling - old, rel_tol=1e-9)


def test_the_papers_clip_examples_are_presets(page: Any) -> None:
    page.get_by_role("button", name="0.01 at 0.2: at most 0.012").click()
    assert read(page, "clip-old", "clip-ceiling") == pytest.approx([0.01, 0.012])
    page.get_by_role("button", name="0.9: nominally 1.08").click()
    assert read(page, "clip-old", "clip-ceiling") == pytest.approx([0.9, 1.08], rel=3e-3)
    assert "never acts" in page.text_content("#clip-says")


@pytest.mark.parametrize("draw", range(POSITIONS))
def test_a_pair_is_pushed_as_the_library_s_loss_pushes_it(page: Any, draw: int) -> None:
    rng = Random(f"pair/{draw}")
    at = move(page, pair_beta=rng.uniform(0.01, 1), pair_margin=rng.uniform(-40, 40), pair_alpha=rng.uniform(0, 2))
    dpo, grpo, ratio = read(page, "pair-dpo", "pair-grpo", "pair-ratio")
    assert close(ratio, dpo / (at["pair_beta"] / 2))
    batch = one_group([1, 1], correct=[True, False])
    logp = torch.tensor([at["pair_margin"], 0.0], dtype=torch.double, requires_grad=True)
    loss, _ = pair_loss(at["pair_beta"], logp, torch.zeros(2, dtype=torch.double), batch)
    loss.backward()
    assert logp.grad is not None
    assert close(dpo, -float(logp.grad[0])) and close(dpo, float(logp.grad[1]))
    row = replace(ALGORITHMS["grpo"], dial=at["pair_alpha"], eps=1e-15)
    advantage = advantages(row, torch.tensor([1.0, 0.0], dtype=torch.double), torch.tensor([0, 0]))
    assert close(grpo, float(advantage[0]) / 2)  # the mean over two answers


@pytest.mark.parametrize("draw", range(POSITIONS))
def test_every_row_gives_a_real_group_the_library_s_advantages(page: Any, draw: int) -> None:
    data = make_explainer_data()
    lengths = [answer["tokens"] for answer in data["group"]["answers"]]
    rng = Random(f"rows/{draw}")
    if draw:
        for i in range(len(lengths)):
            if rng.random() < 0.4:
                page.locator(".answer").nth(i).click()
    verdicts = page.evaluate("correct")
    rewards = torch.tensor([float(v) for v in verdicts], dtype=torch.double)
    group = torch.zeros(len(lengths), dtype=torch.long)
    silent = len(set(verdicts)) == 1
    rows = [row for row in data["rows"] if not (silent and row["keep"] == "mixed")]
    shown = [row for row in table(page, "rows-advantages") if row]
    weighed = [row for row in table(page, "rows-weights") if row]
    assert len(shown) == len(weighed) == len(rows)
    for cells, got, weights in zip(rows, shown, weighed, strict=True):
        row = ALGORITHMS[cells["name"]]
        shaped = shape_rewards(row, rewards, rewards > 0, torch.tensor(lengths), max_new_tokens=data["group"]["budget"])
        wanted = advantages(row, shaped, group).tolist()
        assert all(close(a, b) for a, b in zip(got, wanted, strict=True)), row.name
        token = library_weights(row.aggregate, lengths, data["group"]["budget"])
        assert all(close(got, 1000 * a * w) for got, a, w in zip(weights, wanted, token, strict=True)), row.name


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(browser: Any, path: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    cut = page.evaluate(
        """() => [...document.querySelectorAll('section *')].filter(e => !e.closest('svg') && !e.closest('.scroll')
        && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')
        .map(e => e.outerHTML.slice(0, 80))"""
    )
    page.close()
    assert cut == []


def test_the_page_is_made_at_once_and_holds_every_row_that_compares_a_group(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    names = {row["name"] for row in data["rows"]}
    assert {"reinforce", "rloo", "grpo", "dr_grpo", "mixed_grpo", "dapo", "gspo", "two_grpo"} <= names
    assert not names & {"ppo", "vapo", "sft", "dpo"}
    rewards = {answer["correct"] for answer in data["group"]["answers"]}
    assert rewards == {True, False}, "the group shown at first is mixed"
