"""The parts of architectures: numbers and tensors of a GGUF file, layers, and their upload to a device."""
