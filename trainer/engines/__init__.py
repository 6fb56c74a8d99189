"""How gradients and parameters are shared among ranks, one file per engine."""
