"""Synthetic findings inserted into real volumes: a test of what embeddings can tell, no claim about patients."""
