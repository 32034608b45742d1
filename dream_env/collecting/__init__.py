"""Making recordings: an expert plays, or files of another format are converted."""
