"""What benchmarks/report.py is made of: rows, what follows from them, and two ways to write that down."""
