"""Worker processes of a job: how many, how they start, how they end."""
