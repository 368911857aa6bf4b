"""Checkpoint -> ONNX -> engine."""
