"""The tokenizer report: compression, speed and token statistics on held-out text."""
