"""Kernels compiled on the machine they run on (the extra [cpu])."""
