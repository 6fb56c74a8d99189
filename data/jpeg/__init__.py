"""JPEG decoding of a part of an image: the work of a random crop is spared where the crop does not reach."""
