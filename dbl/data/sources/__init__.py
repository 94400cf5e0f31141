"""Where samples come from: local files, or the Hugging Face hub."""
