"""Training of cells: one loop for each domain, an engine, a sampler, a schedule, checkpoints and records."""
