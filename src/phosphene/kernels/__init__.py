"""Faster ways to run the plain modules of a network on a processor."""

from phosphene.kernels.accelerate import accelerate, is_kernel, kernel_of, restore, run_valid
from phosphene.kernels.chain import Arithmetic, is_done

__all__ = ["Arithmetic", "accelerate", "is_done", "is_kernel", "kernel_of", "restore", "run_valid"]
