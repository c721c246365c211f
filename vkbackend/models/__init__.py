"""From a GGUF file to layers with weights on a device."""
