"""Whether every number of a finished study follows from its raw records; needs the study's folder alone."""
