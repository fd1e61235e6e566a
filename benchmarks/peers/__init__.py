"""Benchmarks beside other people's software; run with `make bench-peers`, which installs it."""
