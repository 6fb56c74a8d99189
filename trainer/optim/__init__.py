"""Optimizers for large batches (LARS, LAMB) and the parameter groups every optimizer gets."""
