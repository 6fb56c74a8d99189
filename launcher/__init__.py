"""Turns a recipe and a cluster file into running processes. Never imports torch or the trainer."""
