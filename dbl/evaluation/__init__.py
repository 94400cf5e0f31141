"""How results are measured and reported."""
