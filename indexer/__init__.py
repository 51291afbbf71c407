"""From stored instances to a ranked answer: catalog, volumes, chunks, embeddings, index, search. No network."""
