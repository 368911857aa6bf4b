"""The peers that mask2edge is measured against, each made ready by a file of its own."""
