"""The tests, by distance from the database: projections, ledger, api."""
