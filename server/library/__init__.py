"""Models on disk: the store, names, Modelfiles, creation, conversion, registries, descriptions."""
