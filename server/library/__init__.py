"""Models on disk: the store, its names and blobs, Modelfiles, creation, conversion, registries, descriptions."""
