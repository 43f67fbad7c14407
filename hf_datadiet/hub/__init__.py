"""Where datasets come from and go to: the only home of huggingface_hub."""
