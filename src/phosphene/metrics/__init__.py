"""Measures of maps, masks, boxes and images, one file each: plain functions that see no model."""
