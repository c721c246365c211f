"""A model's raw output -> content, thoughts and tool calls. In: pieces of text. Out: `Parsed`."""
