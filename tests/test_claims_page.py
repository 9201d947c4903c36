"""docs/claims.md: every statement on it is shown by code that runs, and names only claims that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from onedial.evidence.catalog import list_claims

PAGE = (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("title", SECTIONS)
def test_each_statement_is_shown_by_code(title: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1 and "assert" in blocks[0]
    names: dict[str, Any] = {}
    exec(compile(blocks[0], f"docs/claims.md, {title}", "exec"), names)


def test_the_page_has_the_known_errors() -> None:
    assert len(SECTIONS) >= 10


def test_claims_that_the_page_names_exist() -> None:
    named = re.findall(r"`onedial reproduce ([\w-]+)`", PAGE)
    assert named and set(named) <= set(list_claims()) | {"NAME"}
