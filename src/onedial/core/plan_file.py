"""The plan file: which prompts to sample and how many rollouts each gets.

`onedial plan LOG --budget N --export onedial:plan.json` writes it, `onedial train --plan plan.json` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onedial.core.errors import ConfigError
from onedial.core.paths import read_small_text

PLAN_VERSION = 1
LARGEST_PLAN = 1 << 30
REMEDY = "write one with: onedial plan LOG --budget N --export onedial:plan.json"


@dataclass(frozen=True)
class PlanFile:
    """The content of a plan file.

    tries         rollouts per visit of each funded prompt, by prompt id; a prompt that is not named is dropped
    texts         prompt id → prompt text, if the log had it; identifies prompts that the log numbered differently
    revisit       ids of prompts too uncertain to drop: `audit_prompts` of them, drawn anew in each epoch, get one group
                  of `group_size`
    """

    tries: Mapping[str, int]
    texts: Mapping[str, str]
    revisit: tuple[str, ...]
    audit_prompts: int
    group_size: int


def read_plan(path: Path) -> PlanFile:
    """The plan in a file. Raises ConfigError, with the remedy, when there is none."""
    try:
        value = json.loads(read_small_text(path, largest=LARGEST_PLAN))
    except ConfigError as error:
        raise ConfigError(f"plan={str(path)!r}: cannot be read ({error}); {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"plan={str(path)!r}: not a plan file; {REMEDY}") from error
    if not isinstance(value, dict) or value.get("onedial_plan") != PLAN_VERSION:
        raise ConfigError(f"plan={str(path)!r}: not a plan file of version {PLAN_VERSION}; {REMEDY}")
    try:
        prompts = [(str(each["prompt_id"]), _whole(each["tries"], 2), each.get("prompt")) for each in value["prompts"]]
        revisit = [(str(each["prompt_id"]), each.get("prompt")) for each in value["revisit"]]
        audits, size = _whole(value["audit_prompts"], 0), _whole(value["group_size"], 2)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"plan={str(path)!r}: a plan without {error}; {REMEDY}") from error
    texts = [(name, text) for name, _, text in prompts] + revisit
    return PlanFile(
        tries={name: tries for name, tries, _ in prompts},
        texts={name: text for name, text in texts if isinstance(text, str) and text},
        revisit=tuple(name for name, _ in revisit),
        audit_prompts=audits,
        group_size=size,
    )


def _whole(value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"whole numbers of at least {least} (got {value!r})")
    return value
