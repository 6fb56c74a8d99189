"""Starts the ranks of one node out of one process, and stays with them until they have ended."""
