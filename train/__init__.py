"""Dataset -> checkpoint, in PyTorch."""
