"""A file per tensor format, each with a `FORMAT`; its shader include is shaders/quant/NAME.glsl."""
