"""Train and observe: the only home of Accelerate."""
