"""The verbs `groundup data …`, one file each."""
