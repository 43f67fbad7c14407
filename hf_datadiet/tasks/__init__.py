"""One modality per file: the folder listing is the registry."""
