"""The verbs `groundup tokenizer …`, one file each."""
