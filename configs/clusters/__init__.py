"""The shipped cluster files, as YAML files."""
