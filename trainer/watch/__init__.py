"""Watches the ranks: who died, who is silent, who keeps the others waiting. Then all end and say whose fault it is."""
