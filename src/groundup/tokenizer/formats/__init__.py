"""Tokenizer files: GPT-2, Hugging Face, tiktoken, Tekken and our own JSON."""
