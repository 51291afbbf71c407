"""Retrieval quality: patients apart, all relevant items counted, chance and plain baselines beside it."""

from indexer.evaluate.collection import BASELINES, Plan, Source
from indexer.evaluate.folder import FolderSource
from indexer.evaluate.report import Evaluation
from indexer.evaluate.run import evaluate
from indexer.evaluate.stored import CatalogSource
from indexer.evaluate.tables import TextTable

__all__ = ["BASELINES", "CatalogSource", "Evaluation", "FolderSource", "Plan", "Source", "TextTable", "evaluate"]
