"""What a job holds of the ledger: its run, its metadata, and the way its reports take."""
