"""The migrations, named by their place in the order."""
