"""Files, videos and downloads; the terminal; this process."""
