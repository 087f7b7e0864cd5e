"""Many runs of one command: composed, launched, recorded in a ledger, searched."""
