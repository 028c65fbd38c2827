"""Whether every number of a finished study follows from its raw records."""
