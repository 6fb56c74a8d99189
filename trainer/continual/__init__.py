"""Continual learning: what mattered to earlier stages, what holds it fast, and what is measured after a stage."""
