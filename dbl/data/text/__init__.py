"""Text: data sets, tokenizers and batches of token sequences."""
