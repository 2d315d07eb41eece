"""From a map to a mask to a box: knows maps and pictures, never a model."""
