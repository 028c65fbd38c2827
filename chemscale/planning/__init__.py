"""What a study will take before it runs, and where it stands: plan, packs, status. No torch."""
