"""The claims, and the results that come with onedial.

A result is a JSON file, `results/NAME.json`: what every unit of work gave, the settings, the machine and the versions.
Figures, checks and verdict are computed from it each time it is read.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from importlib.resources import files

from onedial.core.errors import ConfigError, suggest
from onedial.evidence.claim import Claim, Json, judge_checks

CLAIMS = (
    "identity", "silent_rates", "baseline_variance", "dial", "two_rollouts", "dynamic_sampling", "clip_higher",
    "length_bias", "token_loss", "overlong", "ladder", "maj_pass", "gspo_clip", "warmup_dpo", "critic_vs_group",
    "vapo_ladder", "online_offline", "adaptive_sampler",
)  # fmt: skip
"""The modules of `onedial.evidence.claims`; the name of a claim has hyphens."""


def list_claims() -> list[str]:
    """Returns the names of all claims."""
    return [module.replace("_", "-") for module in CLAIMS]


def get_claim(name: str) -> Claim:
    """Returns the claim of that name. Raises ConfigError with the nearest name when there is none."""
    if name not in list_claims():
        raise ConfigError(
            f"claim {name!r} is unknown{suggest(name, list_claims())}; claims: {', '.join(list_claims())}"
        )
    claim: Claim = importlib.import_module(f"onedial.evidence.claims.{name.replace('-', '_')}").CLAIM
    return claim


def read_result(name: str) -> Json | None:
    """Returns the result of a claim that comes with onedial; None where there is none yet."""
    file = files("onedial.evidence") / "results" / f"{name}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def describe_claim(claim: Claim, result: Json | None) -> Json:
    """Returns what is known of a claim: its sentence and source, and figures, checks and verdict of a result."""
    known: Json = {
        "name": claim.name,
        "claim": claim.claim,
        "source": claim.source,
        "verdict": None,
        "trains": claim.trains,
        "minutes": claim.minutes,
        "seeds": list(claim.seeds),
        "figures": None,
        "checks": None,
        "file": None,
    }
    if result is None:
        return known
    figures = claim.figures(result["measured"])
    checks = claim.checks(figures)
    return known | {
        "verdict": judge_checks(checks),
        "seeds": result["seeds"],
        "figures": figures,
        "checks": [asdict(check) for check in checks],
        "file": f"results/{claim.name}.json",
    }
