"""Facts about installed packages, from their metadata alone: extras, what each is for, and versions that conflict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from onedial.core.system import find_version
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


def packages_of(extra: str) -> list[str]:
    """The packages that an extra of onedial names."""
    lines = metadata.requires("onedial") or []
    return [_name(line) for line in lines if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", line)]


def _name(line: str) -> str:
    found = re.match(r"[\w.-]+", line)
    return found[0] if found else line


def find_extra(extra: str, use: str) -> MachineFact:
    """Whether all packages of an extra are installed, and in which version."""
    versions = {package: find_version(package) for package in packages_of(extra)}
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
        for line in metadata.requires(user) or []:
            wanted = Requirement(line)
            optional = "extra" in str(wanted.marker or "")
            if wanted.marker is not None and not optional and not wanted.marker.evaluate():
                continue
            version = find_version(wanted.name)
            if optional and (user != "onedial" or version is None):
                continue
            if version is None:
                yield f"{user} needs {wanted.name}, which is missing"
            elif not wanted.specifier.contains(version, prereleases=True):
                yield f"{user} needs {wanted.name}{wanted.specifier}, installed is {version}"
            if version is not None and wanted.name not in seen:
                seen.add(wanted.name)
                queue.append(wanted.name)
