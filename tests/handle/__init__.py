"""Tests of what a job holds of the ledger."""
