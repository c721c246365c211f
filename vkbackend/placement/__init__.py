"""Decides which layers go to which device, from what a model needs and what devices have, by trying to load it."""
