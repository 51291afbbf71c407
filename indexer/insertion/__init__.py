"""Synthetic findings inserted into real volumes: a test of what embeddings can tell, no claim about patients."""

from indexer.insertion.findings import CLEAN, Finding, of_compartment
from indexer.insertion.insert import Inserted, NoPlace, insert
from indexer.insertion.styles import TESTING, TRAINING, Style

__all__ = ["CLEAN", "TESTING", "TRAINING", "Finding", "Inserted", "NoPlace", "Style", "insert", "of_compartment"]
