"""Fused layers with the same parameters and results as the plain ones."""
