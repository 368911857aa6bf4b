"""The network: backbone, pixel decoder, mask decoder."""
