"""Rewards of transcripts. Oracles: arithmetic by hand, a plain edit distance, and σ̂ of groups of corrupted text."""

from __future__ import annotations

import importlib.util
from random import Random
from typing import Any

import pytest

from onedial.core.errors import ConfigError, MissingExtra
from onedial.core.types import Prompt
from onedial.training.tasks import open_task, verify
from onedial.training.verify.rewards import load_reward
from onedial.training.verify.transcripts import (
    align,
    compare_words,
    count_repeats,
    measure_common,
    split_units,
    wer,
    wgpo,
)

pytest.importorskip("rapidfuzz", reason="pip install 'onedial[transcripts]'")

SENTENCES = [
    "The harbour master signalled twice before the second ferry left the pier",
    "Most of the copper was shipped north in the spring of that year",
    "She asked whether the meeting could be moved to Thursday afternoon",
    "Please turn down the music because the neighbours are trying to sleep",
    "A thin layer of ice had formed on the windows during the night",
    "The committee will publish its recommendations at the end of the month",
    "He folded the letter carefully and put it back into the drawer",
    "Heavy rain delayed the start of the final by almost three hours",
    "Take the next exit and follow the signs towards the old airport",
    "They planted two rows of apple trees along the southern wall",
    "The patient was given oxygen and moved to another ward",
    "None of the witnesses could remember the colour of the car",
]


def rewards(function: Any, reference: str, hypothesis: str) -> float:
    return float(function(Prompt("x", answer=reference), hypothesis)["reward"])


def edit_distance(first: list[str], second: list[str]) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def common_length(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for a in first:
        above, row = row, [0]
        for place, b in enumerate(second):
            row.append(above[place] + 1 if a == b else max(above[place + 1], row[place]))
    return row[-1]


def test_the_gated_reward_by_hand() -> None:
    """Reference of 6 words; 'cot' for 'cat' is soft (2 of 3 characters), 'dog' for 'mat' hard, 'big' inserted.

    n_C = 4, n_soft = 1, n_hard = 2, WER = ½: R_fine = 4/6.4, LCS 4, |H| = 7: R_struc = ½·4/6 + ½·5/6 = ¾.
    """
    reference, hypothesis = "The cat sat on the mat", "the cot sat on the big dog"
    errors = align(split_units(reference), split_units(hypothesis))
    assert (errors.hits, errors.soft, errors.hard, errors.rate) == (4, 1, 2, 0.5)
    far = 0.4 * 0.5 + 0.6 * (0.25 * 4 / 6.4 + 0.75 * 0.75)
    close = 0.4 * 0.5 + 0.6 * (0.75 * 4 / 6.4 + 0.25 * 0.75)
    assert rewards(wgpo(), reference, hypothesis) == pytest.approx(far)
    assert rewards(wgpo(tau=0.5), reference, hypothesis) == pytest.approx(far), "the gate is WER < τ, not ≤"
    assert rewards(wgpo(tau=0.6), reference, hypothesis) == pytest.approx(close)
    assert rewards(wer(), reference, hypothesis) == 0.5
    fields = wgpo()(Prompt("x", answer=reference), hypothesis)
    assert fields["parts"] == pytest.approx({"wer": 0.5, "fine": 4 / 6.4, "structure": 0.75, "repeats": 0.0})
    assert (fields["correct"], fields["outcome"]) == (False, "wrong")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "plain", "gated"),
    [
        ("one two", "One, two!", 1.0, 1.0),  # case and punctuation do not count; R_fine is 1 but for 1e-8
        ("one two", "", 0.0, 0.0),
        ("one two", "?!", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "anything", 0.0, 0.0),
        # WER 3: R_fine 0 of 6 hard errors, nothing in order, three times too long
        ("one two", "a b c d e f", 0.0, 0.0),
        # WER 1: both words there, in the wrong order: n_C 1, hard 2; LCS 1 of 2, length kept
        ("one two", "two one", 0.0, 0.6 * (0.25 * 1 / 3 + 0.75 * (0.25 + 0.5))),
    ],
)
def test_edge_cases_by_hand(reference: str, hypothesis: str, plain: float, gated: float) -> None:
    assert rewards(wer(), reference, hypothesis) == plain
    assert rewards(wgpo(), reference, hypothesis) == pytest.approx(gated, abs=1e-6)


def test_repetition_closes_its_gate() -> None:
    """Oracle: counting by hand; only the first term is gated, and what the reference repeats itself is no fault."""
    texts = ("a b c", "a a b", "a b a b a b c", "x a b c d a b c d")
    assert [count_repeats(text.split()) for text in texts] == [1, 2, 3, 2]
    reference = "so it goes on and on for the rest of the day until night falls at last over us"
    looped = reference.replace("on and on", "on on on on on")
    found = [wgpo()(Prompt("x", answer=reference), text) for text in (reference.replace("and", "on"), looped)]
    assert [f["parts"]["repeats"] for f in found] == [0.0, 1.0]
    open_part = found[1]["reward"] - 0.6 * (0.75 * found[1]["parts"]["fine"] + 0.25 * found[1]["parts"]["structure"])
    assert found[1]["parts"]["wer"] < 0.3 and open_part == pytest.approx(0.0)
    assert wgpo()(Prompt("x", answer="no no no no no no"), "no no no no no no")["reward"] == pytest.approx(1.0)


def test_alignment_against_a_plain_edit_distance() -> None:
    """Oracle: dynamic programming in twelve lines, over words, over characters, and for the likeness of words."""
    random = Random(0)
    for _ in range(60):
        reference = random.choices("abcd", k=random.randint(1, 8))
        hypothesis = random.choices("abcd", k=random.randint(1, 8))
        errors = align(reference, hypothesis)
        assert errors.soft + errors.hard == edit_distance(reference, hypothesis)
        same = measure_common(reference, hypothesis)
        assert errors.hits <= same == common_length(reference, hypothesis)
        word, other = "".join(reference), "".join(hypothesis)
        expected = 1 - edit_distance(reference, hypothesis) / max(len(word), len(other))
        assert compare_words(word, other) == pytest.approx(expected)
    assert measure_common(list("abcd"), list("bxda")) == 2
    assert rewards(wer("character"), "abcd", "abed") == 0.75, "1 − CER"


def test_alignment_is_the_one_that_jiwer_finds() -> None:
    """Oracle: jiwer's word alignment, whose counts users of speech recognition compare with."""
    jiwer = pytest.importorskip("jiwer")
    random = Random(1)
    words = [word for sentence in SENTENCES for word in sentence.lower().split()]
    for _ in range(60):
        reference = random.choices(words, k=random.randint(1, 12))
        hypothesis = split_units(heard(" ".join(reference), random, 0.4)) or ["so"]
        found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        errors = align(reference, hypothesis)
        assert (errors.hits, errors.rate) == (found.hits, pytest.approx(found.wer))
        soft = sum(
            1 - edit_distance(list(reference[chunk.ref_start_idx + n]), list(hypothesis[chunk.hyp_start_idx + n]))
            / max(len(reference[chunk.ref_start_idx + n]), len(hypothesis[chunk.hyp_start_idx + n])) >= 0.5
            for chunk in found.alignments[0] if chunk.type == "substitute"
            for n in range(chunk.ref_end_idx - chunk.ref_start_idx)
        )  # fmt: skip
        assert errors.soft == soft


def heard(sentence: str, random: Random, noise: float) -> str:
    """What a recogniser makes of a sentence: near misses, wrong words, losses, and words out of nothing."""
    out: list[str] = []
    pool = [word for other in SENTENCES for word in other.lower().split()]
    for word in sentence.lower().split():
        if random.random() >= noise:
            out.append(word)
            continue
        kind = random.random()
        if kind < 0.35 and len(word) > 2:
            place = random.randrange(len(word))
            out.append(word[:place] + random.choice("aeioustn") + word[place + 1 :])
        elif kind < 0.85:
            out.append(random.choice(pool))
        if random.random() < 0.6 * noise:
            out.extend(random.choices(pool, k=random.randint(1, 3)))
    return " ".join(out)


def dispersion(function: Any, noise: float) -> tuple[float, float]:
    """(share of unanimous groups, mean σ̂) of eight transcripts of each sentence."""
    spreads = []
    for number, sentence in enumerate(SENTENCES):
        random = Random(f"{number}/{noise}")
        group = [rewards(function, sentence, heard(sentence, random, noise)) for _ in range(8)]
        mean = sum(group) / 8
        spreads.append((sum((r - mean) ** 2 for r in group) / 8) ** 0.5 if max(group) > min(group) else 0.0)
    return sum(spread == 0 for spread in spreads) / len(spreads), sum(spreads) / len(spreads)


def test_it_keeps_dispersion_where_plain_wer_saturates() -> None:
    """The claim: at heavy noise most tries have WER ≥ 1 and plain groups fall silent, while the gated reward
    has no silent group; at light noise both disperse, so it costs nothing there.

    Oracle: max == min of the rewards and population σ̂, computed here.
    """
    (light_silent, light), (heavy_silent, heavy) = (dispersion(wer(), noise) for noise in (0.3, 1.0))
    (gated_light_silent, gated_light), (gated_heavy_silent, gated_heavy) = (
        dispersion(wgpo(), noise) for noise in (0.3, 1.0)
    )
    print(f"plain σ̂ {light:.3f} → {heavy:.3f}, silent {light_silent:.0%} → {heavy_silent:.0%}")
    print(f"gated σ̂ {gated_light:.3f} → {gated_heavy:.3f}, silent {gated_light_silent:.0%} → {gated_heavy_silent:.0%}")
    assert light_silent == gated_light_silent == 0.0
    assert heavy_silent >= 0.5 and gated_heavy_silent == 0.0
    assert gated_heavy > 3 * heavy


def test_by_name_as_a_task_reward(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the function itself; unknown names, options and a missing package are said before a run begins."""
    path = tmp_path / "speech.jsonl"
    path.write_text("\n".join(f'{{"prompt": "transcribe {n}", "answer": "one two {n}"}}' for n in range(30)))
    for spec, expected in (
        ("wgpo", wgpo()),
        ("wgpo(tau=0.5)", wgpo(tau=0.5)),
        ("wer(unit='character')", wer("character")),
    ):
        source = open_task(str(path), reward=spec)
        prompt = source.heldout(1)[0]
        judged = verify(source, prompt, "one too")
        assert judged.reward == pytest.approx(rewards(expected, str(prompt.answer), "one too"))
        assert load_reward(spec) == expected
    both = open_task(str(path), reward="wgpo(tau=0.5, unit='word'),wer", reward_weights="1,1")
    assert verify(both, prompt, str(prompt.answer)).reward == pytest.approx(2.0)
    for spec, said in (
        ("wgp", "did you mean 'wgpo'"),
        ("wgpo(t=1)", "it takes: tau"),
        ("wgpo(tau=2)", "must lie in"),
        ("wgpo(tau=", "must be wgpo or wgpo(option=value)"),
        ("wer(unit='phone')", "must be one of word, character"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_task(str(path), reward=spec)
        assert said in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'onedial\[transcripts\]'"):
        wgpo()
