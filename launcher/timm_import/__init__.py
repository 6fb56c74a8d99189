"""The arguments of timm's train.py as a recipe: none is dropped without a word. Needs no timm."""
