"""Reading and comparing answers. Oracles: values read off by hand; exact fractions; identities."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onedial.core.types import Prompt
from onedial.training.verify.answer import (
    after_hashes,
    bare_number,
    boxed,
    last_number,
    last_word,
    parse_number,
    show_number,
)
from onedial.training.verify.math_equal import Math
from onedial.training.verify.verdict import judge
from onedial.training.verify.verifiers import Exact, Number, find_tagged

HAND_READ = {
    "The answer is 12.": Fraction(12),
    "= -5": Fraction(-5),
    "= −5": Fraction(-5),
    "7-5": Fraction(5),
    "(2)-3": Fraction(3),
    "(-3)": Fraction(-3),
    "costs $1,234.50 in all": Fraction(2469, 2),
    "a loss of -$5": Fraction(-5),
    "3/4 of it": Fraction(3, 4),
    "x = 1,2": Fraction(2),
    "1e3": Fraction(1000),
    "<<48/2=24>>24": Fraction(24),
    ".5": Fraction(1, 2),
    "12 and then h2o": Fraction(12),
    "": None,
    "none": None,
    "1/0": None,
}


@pytest.mark.parametrize("text", HAND_READ)
def test_last_number_by_hand(text: str) -> None:
    assert last_number(text) == HAND_READ[text]


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), (" 12.\n", 12), ("-7", -7), ("1,000", 1000), ("2.50", Fraction(5, 2)), ("12 ", 12)],
)
def test_bare_number_is_the_whole_text(text: str, value: Fraction) -> None:
    assert bare_number(text) == value


@pytest.mark.parametrize("text", ["12 apples", "It is 12", "12..", "1 2", "1,2", "12\n13", "", "--1"])
def test_bare_number_refuses_anything_more(text: str) -> None:
    assert bare_number(text) is None


def test_degenerate_digits_are_not_an_answer() -> None:
    """Peer trap: int() refuses 4300 digits by raising, and 1e999999999 would fill the memory."""
    assert last_number("9" * 100_000) is None
    assert parse_number("1e999999999") is None


@given(st.fractions())
def test_shown_numbers_read_back_exactly(value: Fraction) -> None:
    """Identity: parse ∘ show = id, also at the end of a sentence."""
    shown = show_number(value)
    assert parse_number(shown) == value
    assert last_number(f"so we get {shown}") == value


@given(st.text())
def test_no_text_makes_extraction_raise(text: str) -> None:
    """Invariance: any text is data; a number found is also the last number of "text " + number."""
    for read in (last_number, bare_number, boxed, last_word, after_hashes, find_tagged):
        read(text)
    assert last_number(text + " 41") == 41


def test_boxed_balances_braces_and_takes_the_last() -> None:
    assert boxed(r"\boxed{1} or \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert boxed(r"\fbox{x}") == "x"
    assert boxed(r"\boxed 5") == "5"
    assert boxed(r"\boxed{\frac{1}{2}") is None
    assert boxed("no box") is None


def test_words_and_marks() -> None:
    assert last_word("It is well-known.") == "well-known"
    assert last_word("…") is None
    assert after_hashes("work\n#### 72\nmore") == "72"
    assert after_hashes("72") is None
    assert find_tagged("<answer>a</answer> <answer> b </answer>") == "b"
    assert find_tagged("<answer>a") is None


def outcome(verifier: object, answer: object, completion: str) -> str:
    return str(judge(verifier, Prompt("q", answer=answer), completion)["outcome"])  # type: ignore[arg-type]


def test_strict_number_must_answer_and_stop() -> None:
    assert outcome(Number("bare"), 12, "12") == "correct"
    assert outcome(Number("bare"), 12, "12.") == "correct"
    assert outcome(Number("bare"), 12, "13") == "wrong"
    assert outcome(Number("bare"), 12, "The answer is 12") == "wrong"
    assert outcome(Number("bare"), 12, "twelve") == "unparseable"
    assert outcome(Number("bare"), 12, "") == "unparseable"


def test_loose_number_takes_marked_then_last() -> None:
    loose = Number("last")
    assert outcome(loose, "1,000", "so 1000 in all") == "correct"
    assert outcome(loose, "5", r"\boxed{5} (see step 2)") == "correct"
    assert outcome(loose, "72", "#### 72\nI used 2 steps") == "correct"
    assert outcome(loose, "5", "6 then 7") == "wrong"
    assert outcome(loose, "five", "5") == "error"  # an unreadable reference is not the policy's mistake


def test_exact_folds_case_space_and_full_stop() -> None:
    assert outcome(Exact(), "New York", "new  york.") == "correct"
    assert outcome(Exact(), "yes", "I think so.\nYes") == "correct"
    assert outcome(Exact(), "yes", "<answer>no</answer> yes") == "wrong"
    assert outcome(Exact(), "yes", "  ") == "unparseable"
    assert outcome(Exact(), None, "yes") == "error"


@pytest.mark.parametrize(
    ("reference", "completion", "expected"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", "correct"),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", "correct"),
        ("x^2+1", r"\boxed{1+x^2}", "correct"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\dfrac{\pi}{2})}", "correct"),
        ("[1,2)", r"\boxed{[1,2]}", "wrong"),
        ("12", r"\boxed{1,2}", "wrong"),
        ("34", r"\boxed{3 4}", "wrong"),
        ("5", "no idea", "unparseable"),
        ("5", "so the answer is $5$", "correct"),
        ("5", "thinking, $7$ " * 500 + "so the answer is $5$", "correct"),
        ("5", r"\boxed{", "unparseable"),
    ],
)
def test_math_equality_by_hand(reference: str, completion: str, expected: str) -> None:
    assert outcome(Math(), reference, completion) == expected


def test_c14_math_verify_works_outside_the_main_thread() -> None:
    """peers.md C14 (Math-Verify 50): SIGALRM limits raise off the main thread. Oracle: the verdict of the main one."""
    import threading

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(outcome(Math(), r"\frac{1}{2}", r"\boxed{\frac{2}{4}}")))
    thread.start()
    thread.join()
    assert found == [outcome(Math(), r"\frac{1}{2}", r"\boxed{\frac{2}{4}}")] == ["correct"]


def test_end_number_must_close_the_completion() -> None:
    """Hand values: the number has to be the last thing written, a full stop aside."""
    end = Number("end")
    assert outcome(end, 12, "12") == outcome(end, 12, "The sum is 12.\n") == outcome(end, -3, "= -3") == "correct"
    assert outcome(end, 12, "12 is the sum") == outcome(end, 12, "12 apples") == outcome(end, 2, "12") == "wrong"
    assert outcome(end, 12, "twelve") == "unparseable"
