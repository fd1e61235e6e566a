"""What events mean: the pure core of Run Ledger, without I/O, clock, randomness, SQL or HTTP."""
