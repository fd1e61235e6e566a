"""The log: what every engine must do, and what SQLite must withstand."""
