"""The verbs that serve over HTTP, one file each."""
