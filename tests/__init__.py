"""Tests of Run Ledger, in folders by package."""
