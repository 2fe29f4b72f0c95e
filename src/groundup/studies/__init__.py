"""Studies beside the product: the published study, the written exercises, and the tokenizer report."""
