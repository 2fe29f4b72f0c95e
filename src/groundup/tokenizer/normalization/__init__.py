"""Normalizers, which run before pre-tokenization, and byte-pair encoding on characters."""
