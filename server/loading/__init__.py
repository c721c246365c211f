"""The models in memory: loading, keeping and evicting them."""
