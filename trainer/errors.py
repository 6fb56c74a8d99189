"""What stops a training for a reason that a person can act on."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where, why and what to do."""


def first_line(error: Exception) -> str:
    """Return what somebody else's exception says at its top; the rest is for its developers."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
