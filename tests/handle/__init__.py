"""Tests of the Python handle, on a server and on a database."""
