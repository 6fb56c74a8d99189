"""Image transforms: each one a pure function of an image and a random stream."""
