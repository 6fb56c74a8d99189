"""Runs inside every rank: builds the parts named in job.yaml and trains. Never imports the launcher."""
