"""Models of other programs: export to Hugging Face, GGUF and tiktoken, and import from them."""
