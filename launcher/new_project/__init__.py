"""The files of the project that `megabatch new` writes. They are copied as they are, and never imported from here."""
