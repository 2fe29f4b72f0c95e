"""Normalizers: text transforms that run before pre-tokenization."""
