"""The steps of gpu_check.py: what only a machine with an NVIDIA GPU can show."""
