"""What stands in files and arrays, at its full depth, before it is a picture; knows no network."""

from phosphene.pixels.bands import Alpha, Bands, Scale, eight_bits, fitted, in_unit, stated_scale
from phosphene.pixels.npy import read_npy, starts_like_npy
from phosphene.pixels.png import deep_png, is_deep_png, upright
from phosphene.pixels.quiet import silent, unwarned
from phosphene.pixels.tiff import needs_whole_tiff, read_tiff, starts_like_tiff

__all__ = [
    "Alpha",
    "Bands",
    "Scale",
    "deep_png",
    "eight_bits",
    "fitted",
    "in_unit",
    "is_deep_png",
    "needs_whole_tiff",
    "read_npy",
    "read_tiff",
    "silent",
    "starts_like_npy",
    "starts_like_tiff",
    "stated_scale",
    "unwarned",
    "upright",
]
