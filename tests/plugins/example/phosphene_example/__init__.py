"""What another package adds to phosphene, each by a file and an entry point: method, recipe, metric, target, ..."""
