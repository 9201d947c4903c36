"""Judging completions: answer extraction, verifiers, and a pool of killable worker processes.

Worker-side modules (`answer`, `verdict`, `verifiers`, `rewards`, `worker`) import neither torch nor `core.types` when
loaded, so that a worker starts in a fraction of a second.
"""
