"""Experiments for others: as safetensors, as one file with checksums and licences, and on a hub."""
