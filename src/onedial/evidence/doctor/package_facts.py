"""Facts about installed packages, from their metadata alone: extras, what each is for, and versions that conflict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.parser import HeaderParser
from functools import cache
from importlib import metadata
from typing import NamedTuple

from onedial.evidence.doctor.fact import MachineFact

USES = {
    "train": "train, eval and bench",
    "hub": "datasets from the Hugging Face hub",
    "reasoning-gym": "the task of that name",
    "tensorboard": "--track tensorboard",
    "trackio": "--track trackio",
    "wandb": "--track wandb",
    "transcripts": "the rewards wer and wgpo",
    "trl": "training inside TRL; the peer of bench; conformance",
    "vllm": "the peer of bench; no engine of a run yet",
    "docs": "building the documentation",
    "mutants": "mutation testing",
    "test": "the tests",
    "dev": "the tests and the hooks",
}
"""Every extra, with what it is for."""
FOR_DEVELOPERS = ("docs", "mutants", "test", "dev")
SHOWN = {"train": ("torch", "transformers")}  # of an extra with many packages


def find_packages() -> Iterator[MachineFact]:
    """Each extra for users: complete, or what is missing; then conflicts."""
    for extra, use in USES.items():
        if extra not in FOR_DEVELOPERS:
            yield find_extra(extra, use)
    yield find_conflicts()


class Installed(NamedTuple):
    """The version of an installed package, and the lines in which it states what it needs."""

    version: str
    needs: tuple[str, ...]


@cache
def read_package(name: str) -> Installed | None:
    """What is installed under a name, or as its build for CPUs; only the head of its metadata is read."""
    for each in (name, f"{name}-cpu"):
        try:
            text = metadata.distribution(each).read_text("METADATA") or ""
        except metadata.PackageNotFoundError:
            continue
        head = HeaderParser().parsestr(text.partition("\n\n")[0])
        return Installed(head["Version"], tuple(head.get_all("Requires-Dist", [])))
    return None


def packages_of(extra: str) -> list[str]:
    """The packages that an extra of onedial names."""
    own = read_package("onedial")
    lines = own.needs if own else ()
    return [_name(line) for line in lines if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", line)]


def _name(line: str) -> str:
    found = re.match(r"[\w.-]+", line)
    return found[0] if found else line


def find_extra(extra: str, use: str) -> MachineFact:
    """Whether all packages of an extra are installed, and in which version."""
    installed = {package: read_package(package) for package in packages_of(extra)}
    versions = {package: each.version if each else None for package, each in installed.items()}
    if not versions:
        return MachineFact("extras", extra, "not known", "onedial itself is not installed as a package")
    missing = [package for package, version in versions.items() if version is None]
    shown = SHOWN.get(extra, tuple(versions))
    if not missing:
        return MachineFact("extras", extra, ", ".join(f"{name} {versions[name]}" for name in shown), use)
    found = "not installed" if len(missing) == len(versions) else f"without {', '.join(missing)}"
    return MachineFact("extras", extra, found, f"{use}: pip install 'onedial[{extra}]'")


def find_conflicts() -> MachineFact:
    """Installed packages whose stated requirements the installed versions do not meet, from onedial's on downwards."""
    try:
        wrong = list(_conflicts())
    except ModuleNotFoundError:
        return MachineFact("extras", "conflicts", "not looked for", "this needs the package packaging")
    if wrong:
        return MachineFact("extras", "conflicts", "; ".join(wrong), "install the versions of constraints.txt", True)
    return MachineFact("extras", "conflicts", "none", "each installed package has the versions it asks for")


def _conflicts() -> Iterator[str]:
    from packaging.requirements import Requirement

    seen, queue = {"onedial"}, ["onedial"]
    while queue:
        user = queue.pop(0)
        own = read_package(user)
        for line in own.needs if own else ():
            optional = "extra ==" in line
            if optional and user != "onedial":
                continue
            wanted = Requirement(line)
            found = read_package(wanted.name)
            if (optional and found is None) or (not optional and wanted.marker and not wanted.marker.evaluate()):
                continue
            if found is None:
                yield f"{user} needs {wanted.name}, which is missing"
            elif not wanted.specifier.contains(found.version, prereleases=True):
                yield f"{user} needs {wanted.name}{wanted.specifier}, installed is {found.version}"
            if found is not None and wanted.name not in seen:
                seen.add(wanted.name)
                queue.append(wanted.name)
