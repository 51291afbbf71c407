"""Changes of the catalog's schema, in order; `indexer.catalog.engine.migrate` applies what is missing."""
