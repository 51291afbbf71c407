"""The page: search, a study's hits, two studies side by side, how the node stands; HTML made here, as it is."""
