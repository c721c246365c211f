"""One file per tensor format, each with a `FORMAT`. The shader include is shaders/quant/NAME.glsl."""
