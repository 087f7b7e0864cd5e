"""Many runs of one command: composed, launched, kept in a ledger, searched."""
