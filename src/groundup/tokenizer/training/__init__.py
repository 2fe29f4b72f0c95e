"""BPE training: count pretokens, then merge the most frequent pairs."""
