"""What stops a training for a reason that a person can act on."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where, why and what to do."""
