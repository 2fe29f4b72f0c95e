"""Description, dry run and profile of a run."""
