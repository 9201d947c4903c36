"""A trainer under judgement: two functions, either of which may be missing, called in one way by all checks.

    advantages(rewards, groups, **settings) -> (B,) tensor      rewards (B,) float32, groups (B,) int64 names
    loss(logp, old_logp, mask, advantages, **settings) -> scalar tensor      three (B, L), the last (B,) float32

Settings are passed only where a check is about them, and only if the function has a parameter of that name:

    advantages: scale          "group" or "none": whether the standard deviation of the group divides
    loss:       aggregate      "token_mean", "sequence_mean", "fixed_length" or "sequence_sum"
                length_budget  the constant length that fixed_length divides by
                step           a `Step`: the sizes of the optimizer step that these rows are one micro-batch of
                clip_low, clip_high, clip_dual      distances below and above 1; the bound c of the dual clip
                ratio_level    "token" or "sequence"
                kl_coef, ref_logp      weight and (B, L) log-probabilities of the reference

A function without the parameter, or one that raises NotImplementedError, makes a check not applicable.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onedial.core.errors import ConfigError
from onedial.core.system import find_version

FUNCTIONS = ("advantages", "loss")


def check_version(package: str, written_for: str) -> str:
    """The installed version of a package, "" if there is none.

    Raises ConfigError for one that an adapter was not written for: what it overrides may mean something else there.
    """
    version = find_version(package) or ""
    if version and not version.startswith(f"{written_for}."):
        raise ConfigError(
            f"--trainer {package}: is written for {package} {written_for}, installed is {version}; install that, or "
            "give its functions as an object of your own (docs/conformance.md)"
        )
    return version


class Step(NamedTuple):
    """Live tokens and sequences of one optimizer step, and the number of micro-batches that it is split into."""

    tokens: int
    sequences: int
    parts: int


class NotApplicable(Exception):
    """A check asks for what the trainer does not have; the message says what."""


class WrongAnswer(Exception):
    """A function returned what is no answer: another shape, another type, no gradient."""


@dataclass(frozen=True)
class Rows:
    """Arguments of a loss: logp, old_logp and mask (B, L), advantages (B,)."""

    logp: Tensor
    old_logp: Tensor
    mask: Tensor
    advantages: Tensor

    def select(self, rows: Sequence[int] | slice) -> Rows:
        """Some of the rows, in the order given."""
        return Rows(self.logp[rows], self.old_logp[rows], self.mask[rows], self.advantages[rows])

    def on_policy(self) -> Rows:
        """The same rows with every ratio at 1."""
        return replace(self, old_logp=self.logp.clone())

    def step(self, parts: int = 1) -> Step:
        """The sizes of a step made of these rows."""
        return Step(int(self.mask.sum()), int(self.mask.any(1).sum()), parts)


class Judged:
    """The functions of one trainer, with their arguments made and their answers checked."""

    def __init__(self, functions: Any, name: str) -> None:
        """Raises ConfigError where `functions` has neither `advantages` nor `loss`."""
        self.name = name
        self._functions = {each: getattr(functions, each, None) for each in FUNCTIONS}
        notes = getattr(functions, "notes", None)
        self.notes: Mapping[str, str] = notes if isinstance(notes, Mapping) else {}
        self.version: str = str(getattr(functions, "version", ""))
        if not any(callable(function) for function in self._functions.values()):
            raise ConfigError(f"{name}: has no function 'advantages' and no function 'loss'; one of them is needed")

    def advantages(self, rewards: Sequence[float], groups: Sequence[int], **settings: Any) -> Tensor:
        """(B,) float64 advantages. Raises NotApplicable and WrongAnswer."""
        function = self._function("advantages", settings)
        got = _call(function, torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups), **settings)
        if not isinstance(got, Tensor) or got.shape != (len(rewards),):
            raise WrongAnswer(f"advantages returned {_shape(got)} for {len(rewards)} rewards")
        return got.detach().double()

    def loss(self, rows: Rows, **settings: Any) -> tuple[float, Tensor]:
        """The loss, and its gradient with respect to logp, (B, L) float64. Raises NotApplicable and WrongAnswer."""
        function = self._function("loss", settings)
        logp = rows.logp.detach().clone().requires_grad_()
        got = _call(function, logp, rows.old_logp.clone(), rows.mask.clone(), rows.advantages.clone(), **settings)
        if not isinstance(got, Tensor) or got.numel() != 1:
            raise WrongAnswer(f"loss returned {_shape(got)}; a tensor of one number is needed")
        if not got.requires_grad:
            raise WrongAnswer("the loss has no gradient with respect to logp")
        (gradient,) = torch.autograd.grad(got.reshape(()), logp)
        return float(got.detach()), gradient.double()

    def takes(self, function: str, setting: str) -> bool:
        """Whether a function of the trainer has a parameter of that name."""
        called = self._functions[function]
        if called is None:
            return False
        parameters = inspect.signature(called).parameters
        return setting in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def _function(self, name: str, settings: dict[str, Any]) -> Callable[..., Any]:
        function = self._functions[name]
        if function is None:
            raise NotApplicable(f"the trainer has no function {name!r}")
        missing = [setting for setting in settings if not self.takes(name, setting)]
        if missing:
            raise NotApplicable(f"{name} takes no {', '.join(missing)}")
        return function  # type: ignore[no-any-return]


def _call(function: Callable[..., Any], *arguments: Tensor, **settings: Any) -> Any:
    try:
        return function(*arguments, **settings)
    except NotImplementedError as error:
        raise NotApplicable(str(error) or "not implemented by the trainer") from error


def _shape(got: Any) -> str:
    return f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
