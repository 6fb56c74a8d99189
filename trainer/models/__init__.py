"""Small models shipped for demos and tests."""
