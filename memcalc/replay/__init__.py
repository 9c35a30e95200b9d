"""What PyTorch's caching allocator takes from a device for a step: the log of a tape replayed, block by block."""
