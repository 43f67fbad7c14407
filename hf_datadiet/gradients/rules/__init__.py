"""What the gradient of a layer's parameters is made of, one file per layer family."""
