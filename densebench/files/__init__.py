"""What lies on disk: atomic writes, locks, checked tensors, the cache."""
