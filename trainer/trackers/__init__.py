"""Where results go: metrics.jsonl always, the terminal, Weights & Biases."""
