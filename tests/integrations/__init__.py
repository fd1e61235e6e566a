"""Tests of the integrations, each with the real library."""
