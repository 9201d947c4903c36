"""README, CHANGELOG and the site: links lead somewhere, commands and files exist, nothing known to be false is said.

The oracle of each test is the other side: the files, the Makefile, the command line.
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

import onedial
from onedial.cli import main as cli

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "onedial"
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
SITE_PAGES = sorted((ROOT / "docs").rglob("*.md"))
PAGES = ROOT_PAGES + SITE_PAGES
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[str]:
    """What stands after `onedial ` in blocks of code and in inline code."""
    blocks = "\n".join(re.findall(r"^```\w*[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return re.findall(r"^\s*onedial +(.+)$", blocks, re.MULTILINE) + re.findall(r"`onedial ([^`]+)`", text)


# --- links, commands, files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose_of(page)):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{link}: no such file"
        if anchor and anchor not in ("only-light", "only-dark"):
            assert anchor in headings_of(file), f"{link}: no such heading"


def headings_of(page: Path) -> set[str]:
    """The anchors that the headings of a page get."""
    plain = [
        re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in re.findall(r"^#+ (.+)$", text_of(page), re.M)
    ]
    return {re.sub(r"[\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_of_the_site_is_in_its_menu(page: Path) -> None:
    if page in SITE_PAGES:
        assert str(page.relative_to(ROOT / "docs")) in text_of(ROOT / "mkdocs.yml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_in_the_documents_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", text_of(ROOT / "Makefile"), re.MULTILINE))
    for line in re.findall(r"(?:^|`)make ([a-z ]+?)(?:  |`|$)", text_of(page), re.MULTILINE):
        assert set(line.split()) <= targets, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    for command in commands_in(text_of(page)):
        words = command.split("  ")[0].split()
        if not re.fullmatch(r"[a-z]+", words[0]):
            continue
        assert words[0] in cli.COMMANDS, f"onedial {command}: no such command"
        known = options_of(words[0])
        for flag in re.findall(r"(?<!\S)--?[a-zA-Z][\w.-]*", " ".join(words[1:])):
            plain = flag.replace("_", "-")
            assert plain in known or plain.startswith(("--task.", "--algorithm.")), (
                f"onedial {command}: no option {flag}"
            )


def options_of(command: str) -> set[str]:
    """The options of a command, with hyphens."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"onedial.cli.{command}").configure(parser)
    return {flag.replace("_", "-") for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_checkout_that_a_page_names_exist(page: Path) -> None:
    """Inline code that looks like a path of this checkout: core/…, training/…, tests/…, examples/…"""
    first = {path.name for path in SRC.iterdir() if path.is_dir()} | {
        "tests",
        "examples",
        "docs",
        "benchmarks",
        "tools",
    }
    for path in re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|toml|md|jsonl|gz))`", prose_of(page)):
        if path.split("/")[0] in first and page.name != "CHANGELOG.md":
            assert (ROOT / path).exists() or (SRC / path).exists(), f"{path}: no such file"


# --- README and CHANGELOG --------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_readme_tree_is_the_source_tree() -> None:
    block = README.split("```\nsrc/onedial/\n")[1].split("```")[0]
    shown = {line.split()[0] for line in block.splitlines()}
    packages = {f"{path.name}/" for path in SRC.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert packages == shown, f"README's tree and the source differ: {packages ^ shown}"


def test_the_changelog_starts_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == onedial.__version__


def test_the_changelog_names_every_command_and_row() -> None:
    text = text_of(ROOT / "CHANGELOG.md")
    assert not [name for name in cli.COMMANDS if f"`onedial {name}" not in text]
    rows = [name for name in onedial.ALGORITHMS if not name.startswith(("trl_", "verl_"))]
    assert not [name for name in rows if not re.search(rf"\b{name}\b", text)]


def test_every_extra_is_documented() -> None:
    import tomllib

    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    page = text_of(ROOT / "docs" / "install.md")
    assert not [extra for extra in extras if f"`{extra}`" not in page]


def test_citation_names_this_version() -> None:
    assert f"version: {onedial.__version__}" in text_of(ROOT / "CITATION.cff")


# Sentences that the documents once held and that are not so; each with why.
FALSE = {
    r"\bone dial of one\b": "GRPO, Dr. GRPO and DAPO differ on three axes: exponent, filter, number of completions",
    r"goes where σ̂ will be large": "prompts are sampled uniformly unless a plan says otherwise",
    r"[Ss]ilent (?:answers|rows) cost no(?:thing| training)": "not with KL in the loss, a critic or a likelihood term",
    r"costs? \d+ % less": "no training run has confirmed a saving of a plan",
    r"git clone …": "there is no public address",
    # what the sources say and docs/claims.md corrects
    r"(?:exactly|is) the size of the (?:training )?update": "σ̂ is the coefficient at α = 1; the size has more to it",
    r"structurally identical": "2-GRPO has no reference and no sigmoid",
    r"anti-reasoning|biased toward short": "that is so of right answers only",
    r"[Ii]nterchangeable at": "a divisor per group weighs prompts by one over their length",
    r"Pearson[^.]*0?\.92": "no paper has that number",
    r"retains 97\.6": "group size was changed together with learning rate, prompts and objective",
}


@pytest.mark.parametrize("pattern", FALSE)
def test_nothing_known_to_be_false_is_said(pattern: str) -> None:
    pages = [page for page in PAGES if page.name != "claims.md"]  # it quotes them
    said = [name_of(page) for page in pages if re.search(pattern, " ".join(text_of(page).split()))]
    files = sorted(path for ending in ("py", "js", "html") for path in SRC.rglob(f"*.{ending}"))
    said += [name_of(path) for path in files if re.search(pattern, " ".join(text_of(path).split()))]
    assert not said, f"{said}: {FALSE[pattern]}"
