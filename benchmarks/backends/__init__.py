"""The parts of compare_backends.py: the stages, Polygraphy's runners, the differences and the report."""
