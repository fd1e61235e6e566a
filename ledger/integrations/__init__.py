"""Runs for jobs that other programs start."""
