"""Batch norm in other ways than each micro-batch by itself, and statistics for evaluation."""
