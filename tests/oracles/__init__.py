"""Slow, literal float64 versions of what the package does fast, written from the papers; one file per room."""
