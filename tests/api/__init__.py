"""Tests of the way in: HTTP, settings, the command line, the demo."""
