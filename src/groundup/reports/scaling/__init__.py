"""Scaling laws: loss as a function of parameters and tokens, fitted to runs, and the answers for a budget."""
