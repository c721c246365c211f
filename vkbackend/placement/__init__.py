"""Which layers go to which device: what a model needs, what devices have, and the loads that settle it."""
