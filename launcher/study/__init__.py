"""Many short runs, or parts of one, to find out what helps: ablations, tuning, soups."""
