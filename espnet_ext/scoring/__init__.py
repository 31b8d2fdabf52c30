"""Measures of synthesised speech against its reference, all of them without network."""
