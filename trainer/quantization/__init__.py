"""Networks with numbers of few bits: trained for them (weights.py, layers.py, ranges.py), or made so afterwards."""
