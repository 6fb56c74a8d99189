"""Transforms of whole micro-batches on the device: functions of (seed, step, number of the micro-batch)."""
