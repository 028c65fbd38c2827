"""What a reader sees of a finished study: the data table, figures, the page and the closing lines of a run."""
