"""What an evaluation finds beyond its figures: which classes are taken for which, and the worst mistakes, shown."""
