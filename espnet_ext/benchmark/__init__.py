"""Decoding speed: ours, that of the peers, and how far both are from what the machine allows."""
