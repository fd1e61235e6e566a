"""The way in over HTTP, and the command line."""
