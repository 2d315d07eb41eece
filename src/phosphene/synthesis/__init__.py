"""Images made from the classifier alone: one loop, small parts, and recipes that put them together."""
