"""How right predictions are: mIoU, AP and PQ. NumPy and OpenCV, and hotcoco for AP; no torch, so a device can do it."""
