"""Files and the terminal: video, tables, hashes, downloads, progress."""
