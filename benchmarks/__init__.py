"""Benchmarks: one module a question, one JSON line a case; run with `python -m benchmarks`."""
