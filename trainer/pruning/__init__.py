"""`pruning` of a recipe: single weights that are zero (masks), and whole channels that are removed (plan, shrink)."""
