"""Parameters, FLOPs and memory of a size, by arithmetic: no torch, so that rules and planner can ask."""
