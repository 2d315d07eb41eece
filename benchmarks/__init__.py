"""Side by side with the peers, in one run, on this machine: python -m benchmarks."""
