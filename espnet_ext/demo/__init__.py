"""A web page on which trained models speak."""
