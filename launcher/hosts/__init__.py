"""Several hosts over ssh: what runs on each of them, what is checked before the start, and what watches it."""
