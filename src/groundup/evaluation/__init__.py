"""Evaluation of any model that can be loaded: on shards, on text, and on tasks of lm-evaluation-harness."""
