"""Shards to micro-batches. The part the launcher uses (dataset, order, steps) needs no torch."""
