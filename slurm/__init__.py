"""The sbatch template, as package data."""
