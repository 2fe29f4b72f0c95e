"""Text in: readers of documents as bytes, and the built-in stories. No torch, no numpy, nothing loaded at import."""
