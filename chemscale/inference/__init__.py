"""What finished cells are for: models exported, molecules generated and embedded."""
