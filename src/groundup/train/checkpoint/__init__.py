"""Checkpoints: folders that are complete or absent."""
