"""The families of models, one file each, built by name through the registry."""
