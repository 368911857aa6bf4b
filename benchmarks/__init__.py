"""Latency, accuracy and peers, measured on the artifact that ships."""
